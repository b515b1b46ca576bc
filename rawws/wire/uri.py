"""The addresses of WebSockets (RFC 6455 §3): ``ws:`` and ``wss:``, and ``ws+unix:`` for Unix sockets."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass, replace
from urllib.parse import quote, unquote, urljoin, urlsplit

from rawws.errors import InvalidURI

PORTS = {False: 80, True: 443}

_SCHEMES = {"ws": False, "wss": True, "ws+unix": False, "wss+unix": True}
_ODD = re.compile(r"[\x00-\x20\x7f]")
# RFC 3986 §3.3 and §3.4: what stands in a path and a query as it is; % is left, as it begins an escape.
_PATH_SAFE = "/:@!$&'()*+,;=-._~%"
_QUERY_SAFE = _PATH_SAFE + "?"
_REG_NAME = re.compile(r"[a-z0-9._~!$&'()*+,;=-]+")


@dataclass(frozen=True, slots=True)
class WebSocketURI:
    """The parts of an address; ``host`` is in lower case, without brackets, and all ASCII."""

    secure: bool
    host: str
    port: int
    path: str = "/"
    query: str = ""
    username: str | None = None
    password: str | None = None
    unix_path: str | None = None  # of the socket to connect to, in place of host and port

    @property
    def resource_name(self) -> str:
        """What is asked for in the request: the path, and the query if there is one (§3)."""
        return f"{self.path}?{self.query}" if self.query else self.path

    @property
    def authority(self) -> str:
        """The value of the Host header (§4.1 item 4): the port is left out where it is the scheme's own."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == PORTS[self.secure] else f"{host}:{self.port}"

    @property
    def origin(self) -> tuple[bool, str, int, str | None]:
        """What two addresses have in common that are of one server: secrets may go there."""
        return self.secure, self.host, self.port, self.unix_path

    def __str__(self) -> str:
        """Return the address without its user name and password, fit for a log."""
        if self.unix_path is not None:
            return f"{'wss' if self.secure else 'ws'}+unix://{self.unix_path}:{self.resource_name}"
        return f"{'wss' if self.secure else 'ws'}://{self.authority}{self.resource_name}"

    def resolve(self, reference: str) -> WebSocketURI:
        """Return where a redirect's Location leads from here (RFC 9110 §10.2.2). Raises `InvalidURI`.

        ``http`` and ``https`` stand for ``ws`` and ``wss``, since HTTP knows no other redirects. User name and
        password go along only within the same server.
        """
        base = f"{'https' if self.secure else 'http'}://{self.authority}{self.resource_name}"
        joined = urljoin(base, reference.strip().partition("#")[0])
        scheme, colon, rest = joined.partition(":")
        if scheme.lower() in ("http", "https"):
            scheme = "wss" if scheme.lower() == "https" else "ws"
        target = parse_uri(f"{scheme}{colon}{rest}")
        if (target.secure, target.host, target.port) != (self.secure, self.host, self.port):
            return target
        return replace(
            target,
            username=target.username or self.username,
            password=target.password or self.password,
            unix_path=self.unix_path,
        )


def parse_uri(text: str) -> WebSocketURI:
    """Return the parts of a WebSocket's address. Raises `InvalidURI`, which says what is wrong with it."""
    if _ODD.search(text):
        raise InvalidURI(f"{text!r} has a space or a control character in it")
    scheme, separator, _ = text.partition("://")
    if not separator or scheme.lower() not in _SCHEMES:
        raise InvalidURI(f"{text!r} is not the address of a WebSocket; {_advise(scheme.lower(), separator)}")
    if "#" in text:
        raise InvalidURI(f"{text!r} has a fragment (#), which a WebSocket's address can't have (RFC 6455 §3)")
    secure = _SCHEMES[scheme.lower()]
    if scheme.lower().endswith("+unix"):
        return _parse_unix(text, secure)
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError as error:
        raise InvalidURI(f"{text!r} has a bad host or port: {error}") from None
    if not parts.hostname:
        raise InvalidURI(f"{text!r} names no host")
    if port == 0:
        raise InvalidURI(f"{text!r} has port 0, which nobody can be reached at")
    return WebSocketURI(
        secure,
        _host(parts.hostname, text),
        PORTS[secure] if port is None else port,
        quote(parts.path, _PATH_SAFE) or "/",
        quote(parts.query, _QUERY_SAFE),
        None if parts.username is None else unquote(parts.username),
        None if parts.password is None else unquote(parts.password),
    )


def _advise(scheme: str, separator: str) -> str:
    if separator and scheme in ("http", "https"):
        return f"use {'wss' if scheme == 'https' else 'ws'}:// in place of {scheme}://"
    return "it begins with ws:// or wss://, as ws://localhost:8080/room"


def _parse_unix(text: str, secure: bool) -> WebSocketURI:
    """``ws+unix:///run/app.sock:/room?x=1``: behind a colon, as npm ws has it, comes what is asked for."""
    socket_path, _, target = text.partition("://")[2].partition(":")
    if not socket_path:
        raise InvalidURI(f"{text!r} names no socket; give its path, as ws+unix:///run/app.sock:/room")
    path, _, query = target.partition("?")
    if path and not path.startswith("/"):
        raise InvalidURI(f"what stands behind the socket in {text!r} is not a path; it begins with /")
    return WebSocketURI(
        secure,
        "localhost",
        PORTS[secure],
        quote(path, _PATH_SAFE) or "/",
        quote(query, _QUERY_SAFE),
        unix_path=unquote(socket_path),
    )


def _host(name: str, text: str) -> str:
    """Return a host in the form in which it is looked up and sent: lower case, A-labels (RFC 5890)."""
    if ":" in name:
        try:
            return str(ipaddress.IPv6Address(name))
        except ValueError:
            raise InvalidURI(f"{text!r} has a host in brackets that is not an IPv6 address") from None
    try:
        ascii_name = name.encode("idna").decode("ascii").lower() if not name.isascii() else name.lower()
    except UnicodeError:
        raise InvalidURI(f"{text!r} has a host name that can't be written in ASCII (IDNA)") from None
    if not _REG_NAME.fullmatch(ascii_name):
        raise InvalidURI(f"{text!r} has a host name with characters that can't be in one")
    return ascii_name
