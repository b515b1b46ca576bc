"""The addresses of HTTP servers that rawws asks: ``http:`` and ``https:``, and ``http+unix:`` for Unix sockets.

They are parsed as strictly as those of WebSockets, and have the same parts.
"""

from __future__ import annotations

from rawws.errors import InvalidURI, UsageError
from rawws.wire.uri import WebSocketURI, parse_uri

_SCHEMES = {"http": "ws", "https": "wss", "http+unix": "ws+unix"}


def parse_http_url(text: str, *, example: str = "http://127.0.0.1:8000/auth") -> WebSocketURI:
    """Return the parts of an address. Raises `UsageError` for one that can't be asked, without a possible password.

    The error for an address of another kind shows the ``example``.
    """
    scheme, separator, rest = text.partition("://")
    scheme = scheme.lower()
    if not separator or scheme not in _SCHEMES:
        raise UsageError(f"the address doesn't begin with http:// or https://, as in {example}")
    try:
        uri = parse_uri(f"{_SCHEMES[scheme]}://{rest.partition('#')[0]}")
    except InvalidURI as error:
        raise UsageError(str(error).replace(f"'{_SCHEMES[scheme]}://", f"'{scheme}://", 1)) from None
    if uri.username is not None:
        raise UsageError("the address has a user name in it, where ps would show the password; leave that out")
    return uri
