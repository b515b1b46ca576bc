"""The addresses of WebSockets (RFC 6455 §3): ``ws:`` and ``wss:``, and ``ws+unix:`` for Unix sockets.

An address is parsed here and not by ``urllib.parse``, which ignores many faults, and different ones in different
versions. An accepted address can be sent as it is: it is all ASCII, without line ends.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass, field, replace
from urllib.parse import quote, unquote, urljoin

from rawws.errors import InvalidURI

PORTS = {False: 80, True: 443}

_SCHEMES = {"ws": False, "wss": True, "ws+unix": False, "wss+unix": True}
# Lone surrogates stand for bytes that were no text; they can't be encoded.
_ODD = re.compile(r"[\x00-\x20\x7f\ud800-\udfff]")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
# RFC 3986 §3.3 and §3.4: characters that need no escape in a path and a query; a % that begins no escape is escaped.
_PATH_SAFE = "/:@!$&'()*+,;=-._~%"
_QUERY_SAFE = _PATH_SAFE + "?"
_STRAY_PERCENT = re.compile(r"%(?![0-9A-Fa-f]{2})")
# All visible ASCII: characters that stay as they are in a Location header, which may contain anything.
_VISIBLE = "".join(map(chr, range(0x21, 0x7F)))
# RFC 3986 §3.2: user name and password, host, port.
_AUTHORITY = re.compile(r"(?:(?P<user>[^@]*)@)?(?P<host>\[[^\[\]]*\]|[^:@\[\]]*)(?::(?P<port>[^:@]*))?")
_PORT = re.compile(r"[0-9]{1,5}")
# RFC 3986 §3.2.2 and RFC 1035 §2.3.4: labels of 1 to 63 characters, and 253 in all; longer names raise errors of
# many kinds when they are looked up.
_HOST = re.compile(r"(?=.{1,254}\Z)[a-z0-9_~!$&'()*+,;=-]{1,63}(?:\.[a-z0-9_~!$&'()*+,;=-]{1,63})*\.?")


@dataclass(frozen=True, slots=True)
class WebSocketURI:
    """The parts of an address; ``host`` is in lower case, without brackets, and all ASCII."""

    secure: bool
    host: str
    port: int
    path: str = "/"
    query: str = ""
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    unix_path: str | None = None  # of the socket to connect to, in place of host and port

    @property
    def resource_name(self) -> str:
        """The resource name in the request: the path, and the query if there is one (§3)."""
        return f"{self.path}?{self.query}" if self.query else self.path

    @property
    def authority(self) -> str:
        """The value of the Host header (§4.1 item 4), without the port if it is the scheme's default."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == PORTS[self.secure] else f"{host}:{self.port}"

    @property
    def origin(self) -> tuple[bool, str, int, str | None]:
        """The server, for comparison: two addresses with the same value may share secrets."""
        return self.secure, self.host, self.port, self.unix_path

    def __str__(self) -> str:
        """Return the address without its user name and password, fit for a log."""
        scheme = "wss" if self.secure else "ws"
        if self.unix_path is not None:
            return f"{scheme}+unix://{quote(self.unix_path, errors='surrogateescape')}:{self.resource_name}"
        return f"{scheme}://{self.authority}{self.resource_name}"

    def with_parameter(self, name: str, value: str) -> WebSocketURI:
        """Return the address with a parameter in its query, which replaces those of the same name."""
        others = [part for part in self.query.split("&") if part and part.partition("=")[0] != name]
        return replace(self, query="&".join([*others, f"{name}={value}"]))

    def resolve(self, reference: str) -> WebSocketURI:
        """Return where a redirect's Location leads from here (RFC 9110 §10.2.2). Raises `InvalidURI`.

        ``http`` and ``https`` stand for ``ws`` and ``wss``, since HTTP knows no other redirects. User name and
        password are kept only for the same server. No redirect leads to a Unix socket, or from one to another: a
        server has no say in which of them are opened.
        """
        base = f"{'https' if self.secure else 'http'}://{self.authority}{self.resource_name}"
        located = reference.strip().partition("#")[0]
        try:
            # Some servers send spaces and UTF-8 without escapes.
            joined = urljoin(base, quote(located, _VISIBLE))
        except ValueError:
            raise InvalidURI(f"{_shown(located)} is no address to be redirected to") from None
        scheme, colon, rest = joined.partition(":")
        if scheme.lower().endswith("+unix"):
            raise InvalidURI(f"{_shown(located)} is a Unix socket, where no redirect may lead")
        if scheme.lower() in ("http", "https"):
            scheme = "wss" if scheme.lower() == "https" else "ws"
        target = parse_uri(f"{scheme}{colon}{rest}")
        if (target.secure, target.host, target.port) != (self.secure, self.host, self.port):
            return target
        if target.username is None:
            target = replace(target, username=self.username, password=self.password)
        return replace(target, unix_path=self.unix_path)


def parse_uri(text: str) -> WebSocketURI:
    """Return the parts of a WebSocket's address. Raises `InvalidURI`, which says what is wrong with it."""
    shown = _shown(text)
    if _ODD.search(text):
        raise InvalidURI(f"{shown} has a space or a control character in it; in a path, %20 stands for a space")
    scheme, separator, rest = text.partition("://")
    scheme = scheme.lower()
    if not separator or scheme not in _SCHEMES:
        raise InvalidURI(f"{shown} is not the address of a WebSocket; {_advise(scheme, separator)}")
    if "#" in rest:
        raise InvalidURI(
            f"{shown} has a fragment (#), which a WebSocket's address can't have (RFC 6455 §3); leave it out, or write "
            "%23 if it belongs to the path"
        )
    secure = _SCHEMES[scheme]
    if scheme.endswith("+unix"):
        return _parse_unix(rest, secure, shown)
    target_at = next((at for at, character in enumerate(rest) if character in "/?"), len(rest))
    username, password, host, port = _parse_authority(rest[:target_at], shown)
    path, query = _parse_target(rest[target_at:])
    return WebSocketURI(secure, host, PORTS[secure] if port is None else port, path, query, username, password)


def _shown(text: str) -> str:
    """Return an address as an error quotes it: without a possible password, which ends before an @."""
    hidden, count = re.subn(r"//[^/?#]*@", "//…@", text, count=1)
    if not count:
        hidden = re.sub(r"//.*@", "//…@", text, flags=re.DOTALL)  # a password may have a / in it by mistake
    return repr(hidden if len(hidden) <= 200 else f"{hidden[:199]}…")


def _advise(scheme: str, separator: str) -> str:
    if separator and scheme in ("http", "https"):
        return f"use {'wss' if scheme == 'https' else 'ws'}:// in place of {scheme}://"
    return "it begins with ws:// or wss://, as in ws://localhost:8080/room"


def _parse_authority(authority: str, shown: str) -> tuple[str | None, str | None, str, int | None]:
    """Return user name, password, host and port."""
    if "\\" in authority:
        # RFC 3986 knows no backslash; browsers take it for a slash, so that they would find another host here.
        raise InvalidURI(f"{shown} has a backslash where its host belongs; a path begins with /")
    if authority.count("@") > 1:
        raise InvalidURI(f"{shown} has more than one @ before its path; in a user name or password write %40 for it")
    parts = _AUTHORITY.fullmatch(authority)
    if parts is None:
        raise InvalidURI(
            f"{shown} has no proper host and port; they are as example.org:8080, or [::1]:8080 with IPv6's brackets"
        )
    if not parts["host"]:
        raise InvalidURI(f"{shown} names no host; it comes after the //, as in ws://localhost:8080/room")
    port = None
    if parts["port"]:  # RFC 3986 §3.2.3: an empty port is the default
        if not _PORT.fullmatch(parts["port"]) or not 1 <= int(parts["port"]) <= 65535:
            raise InvalidURI(f"{shown} has a bad port; it is a number from 1 to 65535")
        port = int(parts["port"])
    host = _parse_host(parts["host"], shown)
    return *_parse_user(parts["user"], shown), host, port


def _parse_user(user: str | None, shown: str) -> tuple[str | None, str | None]:
    if not user:
        return None, None
    name, colon, secret = user.partition(":")
    try:
        username = unquote(name, errors="strict")
        password = unquote(secret, errors="strict") if colon else None
    except UnicodeDecodeError:
        raise InvalidURI(f"{shown} has a user name or password that is not UTF-8 in its %-escapes") from None
    # RFC 7617 §2: the rest after the first colon would be taken for the password, and control characters are invalid.
    if ":" in username or _CONTROL.search(username + (password or "")):
        raise InvalidURI(
            f"{shown} has a colon in its user name, or a control character in that or in the password, which Basic "
            "authorization can't carry"
        )
    return username, password


def _parse_host(name: str, shown: str) -> str:
    """Return a host in the form that is looked up and sent: lower case, A-labels (RFC 5890)."""
    if name.startswith("["):
        if "%" in name:
            raise InvalidURI(
                f"{shown} has an IPv6 address with a zone (%), which means nothing to a server; connect a socket and "
                "use that"
            )
        try:
            return str(ipaddress.IPv6Address(name[1:-1]))
        except ValueError:
            raise InvalidURI(f"{shown} has a host in brackets that is not an IPv6 address") from None
    try:
        host = name.lower() if name.isascii() else name.encode("idna").decode("ascii").lower()
    except UnicodeError:
        raise InvalidURI(f"{shown} has a host name that can't be written in ASCII (IDNA)") from None
    if not _HOST.fullmatch(host):
        raise InvalidURI(f"{shown} has a host name with a bad character, or with an empty or too long part, in it")
    return host


def _parse_target(target: str) -> tuple[str, str]:
    """Return path and query, all ASCII: other characters in UTF-8 and %-escapes (RFC 3987 §3.1)."""
    path, _, query = _STRAY_PERCENT.sub("%25", target).partition("?")
    return quote(path, _PATH_SAFE) or "/", quote(query, _QUERY_SAFE)


def _parse_unix(rest: str, secure: bool, shown: str) -> WebSocketURI:
    """Parse ``ws+unix:///run/app.sock:/room?x=1``: the resource name follows a colon, as in npm ws."""
    socket_path, _, target = rest.partition(":")
    if not socket_path.startswith("/") or "?" in socket_path:
        raise InvalidURI(
            f"{shown} is not the address of a Unix socket; give its whole path, a colon, and what is asked for, as "
            "ws+unix:///run/app.sock:/room"
        )
    if target and target[0] not in "/?":
        raise InvalidURI(f"the part after the socket in {shown} is not a path; it begins with /")
    # The system's own encoding, since a file name may be any bytes.
    unix_path = unquote(socket_path, errors="surrogateescape")
    if "\0" in unix_path:
        raise InvalidURI(f"{shown} has a NUL in the path of its socket, which no file can have")
    path, query = _parse_target(target)
    return WebSocketURI(secure, "localhost", PORTS[secure], path, query, unix_path=unix_path)
