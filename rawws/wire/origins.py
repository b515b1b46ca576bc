"""The web pages that may open a WebSocket, by their origin (RFC 6455 §10.2, RFC 6454)."""

from __future__ import annotations

import ipaddress
import re
import shlex
from collections.abc import Iterable
from typing import NamedTuple

from rawws.errors import UsageError
from rawws.wire.trace import MAX_NAME_CHARACTERS, shorten

_DEFAULT_PORTS = {"http": 80, "ws": 80, "https": 443, "wss": 443}
# RFC 6454 §7.1. The host is that of RFC 3986 §3.2.2, and may be empty, as in file://.
_ORIGIN = re.compile(r"([a-z][a-z0-9+.-]*)://(\[[0-9a-f:.]+\]|[^/:@?#\[\]\s]*)(?::([0-9]{0,5}))?")
_MAX_PORT = 65535


class _Origin(NamedTuple):
    """An origin, normalized for comparison; ``port`` is None if it is the scheme's default."""

    scheme: str
    host: str
    port: int | None

    @classmethod
    def parse(cls, origin: str) -> _Origin:
        """Parse an origin in the form that browsers send (RFC 6454 §6.2). Raises `UsageError` for any other text."""
        lowered = origin.strip().lower()
        if lowered in ("null", ""):  # some programs send an empty one; browsers don't
            return cls(lowered, "", None)
        parts = _ORIGIN.fullmatch(lowered if lowered.endswith("://") else lowered.removesuffix("/"))
        if parts is not None and len(lowered) <= MAX_NAME_CHARACTERS:
            scheme, host, digits = parts.groups()
            port = int(digits) if digits else None
            host = _as_sent(host)
            if host is not None and (host or scheme not in _DEFAULT_PORTS) and (port or 0) <= _MAX_PORT:
                return cls(scheme, host, None if port == _DEFAULT_PORTS.get(scheme) else port)
        raise UsageError(
            f"{origin!r} is not an origin; give scheme, host and port alone, as a browser sends them, such as "
            "https://example.org, or * for any"
        )


def _as_sent(host: str) -> str | None:
    """Return a host in the form that browsers send; None if there is no such form, or more than one."""
    if host.startswith("["):
        try:
            return f"[{ipaddress.IPv6Address(host[1:-1])}]"
        except ValueError:
            return None
    if host.isascii():
        return host
    try:
        encoded = host.encode("idna")
        # IDNA 2003 maps "ß" to "ss". Browsers keep it, which names another site.
        return encoded.decode("ascii") if encoded.decode("idna") == host else None
    except UnicodeError:
        return None


class Origins:
    """The web pages that may connect (§10.2): those of the server's own host, and those allowed by name.

    A browser lets any page open a WebSocket to any host. It sends the user's cookies along, and the page's origin in
    ``Origin``. A check of that field is the only defence. Other programs send no Origin and are accepted: they could
    send any value.
    """

    def __init__(self, allowed: Iterable[str] = ()) -> None:
        """``allowed`` holds origins such as ``https://example.org``, ``file://``, ``null``, or ``*`` for any.

        An empty text stands for an empty Origin header, which some embedded clients send. Raises `UsageError` for an
        invalid origin.
        """
        given = [origin.strip() for origin in allowed]
        self._any = "*" in given
        self._allowed = frozenset(_Origin.parse(origin) for origin in given if origin != "*")

    @classmethod
    def of(cls, given: Origins | Iterable[str] | None) -> Origins:
        """Return the origins that a caller gave: an `Origins` as it is, one or several by name, or any for None."""
        if isinstance(given, Origins):
            return given
        if given is None:
            given = ["*"]
        return cls([given] if isinstance(given, str) else given)

    def advise(self, origin: str) -> str:
        """Return advice for the log: the way to allow pages from an origin."""
        try:
            parsed = _Origin.parse(origin)
        except UsageError:
            return (
                "a browser sends no such Origin (RFC 6454 §7.1): have the client send none, or start the server with "
                "--allow-origin '*'"
            )
        # A page of any site can send null: in a frame with the attribute "sandbox".
        whom = "it, and any page that hides its site" if parsed.scheme == "null" else "it"
        # The origin is quoted, since the advice is for pasting into a shell and the client chose the text.
        return f"to allow {whom}, start the server with --allow-origin {shlex.quote(origin)}"

    def allow(self, origin: str, host: str) -> bool:
        """Say whether a page from ``origin`` may connect, given the request's ``Host``."""
        if self._any:
            return True
        try:
            parsed = _Origin.parse(origin)
        except UsageError:
            return False
        return parsed in self._allowed or _is_same_host(parsed, host)


def _is_same_host(origin: _Origin, host: str) -> bool:
    """Say whether a page's origin is the request's own host. An origin with an app's own scheme never is."""
    if origin.scheme not in _DEFAULT_PORTS:
        return False
    try:
        # A Host without a port is read with the page's scheme, because our own pages have https:// behind a proxy that
        # ends TLS.
        return _Origin.parse(f"{origin.scheme}://{host}") == origin
    except UsageError:
        return False


def name_origin(origin: str) -> str:
    """Return an Origin as sentences have it."""
    return shorten(origin) or "an empty Origin"
