"""The secret that opens the page.

An address does not identify a person: a proxy on this machine that adds no header of its own makes every stranger a
client on loopback. So the page and its feed need a token, which is new at each start and written to the log. A link
with ``?token=…`` exchanges it for a cookie, and leads to the page.

The cookie lasts as long as the browser's session. Scripts can't read it, pages of other sites don't send it, and it
goes nowhere but below `HOME`, so that neither rooms nor an application see it.
"""

from __future__ import annotations

import hmac
import re
import secrets

from rawws.errors import Refusal, UsageError
from rawws.hub.paths import OWN_PATHS
from rawws.wire.messages import NO_STORE, Request, Response

HOME = OWN_PATHS

# RFC 3986 §2.3: these need no escaping in a query, nor in a cookie (RFC 6265 §4.1.1).
_TOKEN = re.compile(r"[-.~\w]+", re.ASCII)
_TOKEN_BYTES = 24
_PARAMETER = "token="
_NEEDED = "The page needs this server's token: open the link with ?token=… that the server logged at its start."


class Access:
    """Decides which requests may see the page, and issues the cookie that identifies them."""

    def __init__(self, token: str | None = None, *, secure: bool = False) -> None:
        """Without a ``token`` a random one is made. ``secure`` is for a server that speaks TLS: its cookie is Secure.

        Raises `UsageError` for a token that can't stand in a link. The error doesn't repeat it, since it is a secret.
        """
        if token is not None and not _TOKEN.fullmatch(token):
            raise UsageError(
                f"the page's token is {'empty' if not token else 'not made of letters, digits and -._~ alone'}; "
                "give one such as 'openssl rand -hex 16' makes"
            )
        self.is_given = token is not None
        self.token = token or secrets.token_urlsafe(_TOKEN_BYTES)
        self._secure = secure

    def __repr__(self) -> str:
        return f"<Access is_given={self.is_given}>"  # without the token, which may end up in a log

    def admits(self, request: Request) -> bool:
        """Say whether a request has the cookie."""
        name = _cookie_name(request)
        # A server on another port can set a cookie of the same name too (RFC 6265 §8.5), so each value is tried.
        cookies = ";".join(request.headers.get_all("Cookie")).split(";")
        pairs = [cookie.strip().partition("=") for cookie in cookies]
        return any(self._is_token(value) for given, _, value in pairs if given == name)

    def open(self, request: Request) -> Response | None:
        """Return the answer to a request whose query has the token; None for any other request."""
        given = token_of(request)
        if given is None or not self._is_token(given):
            return None
        cookie = f"{_cookie_name(request)}={self.token}; Path={HOME}; HttpOnly; SameSite=Strict"
        fields = [("Set-Cookie", cookie + "; Secure" * self._secure), *_to_home()]
        return Response(303, b"", fields)

    def _is_token(self, given: str) -> bool:
        return hmac.compare_digest(given.encode(), self.token.encode())


def token_of(request: Request) -> str | None:
    """Return the token in a request's query, right or wrong; None if there is none."""
    if not (query := request.query):
        return None
    parameters = query.split("&")
    return next((each.removeprefix(_PARAMETER) for each in parameters if each.startswith(_PARAMETER)), None)


def lead_home() -> Response:
    """Return a redirect to the page, which removes an invalid token from the address bar."""
    return Response(303, b"", _to_home())


def refusal_of(request: Request) -> Refusal:
    """Return the refusal of a request without the secret."""
    fields: tuple[tuple[bytes, bytes], ...] = ()
    # If the link was followed from a page of another site, such as a terminal in a browser, SameSite=Strict
    # withholds the cookie. The browser sends it when our own answer makes it load the page again.
    if request.headers.get("Sec-Fetch-Site") == "cross-site" and request.headers.get("Sec-Fetch-Mode") == "navigate":
        fields += ((b"Refresh", f"0; url={HOME}".encode("ascii")),)
    return Refusal(403, "page_token", _NEEDED, fields)


def _to_home() -> list[tuple[str, str]]:
    return [("Location", HOME), NO_STORE, ("Referrer-Policy", "no-referrer")]


def _cookie_name(request: Request) -> str:
    """Return a cookie name that includes the port, since all ports of a host share cookies (RFC 6265 §8.5)."""
    port = request.authority.rpartition(":")[2]
    return f"rawws-page-{port}" if port.isascii() and port.isdigit() else "rawws-page"
