"""The opening handshake, read from the server's side (RFC 6455 §4.2).

`examine` checks a request against each requirement in turn, with one function for each, and lists every check with its
finding. A reader can follow it with §4.2.1 open. The first requirement that isn't met decides the refusal. This module
sends nothing.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from dataclasses import dataclass

from rawws.errors import Refusal
from rawws.wire.checks import Check, RequestCheck, found
from rawws.wire.deflate import Agreement, answer_offers
from rawws.wire.messages import Headers, Request, Response, is_token
from rawws.wire.origins import Origins, name_origin
from rawws.wire.trace import mask_subprotocols, mask_target

# §1.3: "a GUID ... which is unlikely to be used by network endpoints that do not understand the protocol".
GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
KEY_BYTES = 16
VERSION = "13"

# The fields of a 426 (RFC 9110 §15.5.22, RFC 6455 §4.4).
_WHAT_IS_REQUIRED = (
    (b"Sec-WebSocket-Version", VERSION.encode()),
    (b"Upgrade", b"websocket"),
    (b"Connection", b"Upgrade"),
)


@dataclass(frozen=True, slots=True)
class Accept:
    """How ``Sec-WebSocket-Accept`` is made of the client's key (§4.2.2 item 5.4), step by step."""

    key: str
    sha1: bytes
    value: str

    @classmethod
    def of(cls, key: str) -> Accept:
        digest = hashlib.sha1(key.encode("ascii") + GUID, usedforsecurity=False).digest()
        return cls(key, digest, base64.b64encode(digest).decode("ascii"))

    @property
    def steps(self) -> list[str]:
        return [
            f"key            {self.key}",
            f"key + GUID     {self.key}{GUID.decode('ascii')}",
            f"SHA-1 of that  {self.sha1.hex()}",
            f"in base64      {self.value}",
            "proves         that this server speaks WebSocket and has read this request; it authenticates nobody",
        ]


@dataclass(frozen=True, slots=True)
class Handshake:
    """The outcome for one request: accepted with ``accept``, or refused with ``refusal``."""

    checks: tuple[RequestCheck, ...]
    path: str
    accept: Accept | None
    refusal: Refusal | None
    deflate: Agreement | None = None  # whether, and how, messages may be compressed
    offered_subprotocols: tuple[str, ...] = ()  # in the client's order of preference
    subprotocol: str | None = None  # the application's choice (§4.2.2 item 4)

    @property
    def response_headers(self) -> list[tuple[bytes, bytes]]:
        """The fields of the 101 (§4.2.2 item 5)."""
        assert self.accept is not None, "a refused handshake has no 101"
        headers = [
            (b"Upgrade", b"websocket"),
            (b"Connection", b"Upgrade"),
            (b"Sec-WebSocket-Accept", self.accept.value.encode("ascii")),
        ]
        if self.subprotocol is not None:
            headers.append((b"Sec-WebSocket-Protocol", self.subprotocol.encode("ascii")))
        if self.deflate is not None:
            headers.append((b"Sec-WebSocket-Extensions", self.deflate.header.encode("ascii")))
        return headers

    @property
    def response(self) -> Response:
        """The 101."""
        fields = [(name.decode("ascii"), value.decode("ascii")) for name, value in self.response_headers]
        return Response(101, b"", Headers(fields))


_OF_A_WEBSOCKET = frozenset({"sec-websocket-key", "sec-websocket-version"})


def wants_websocket(request: Request) -> bool:
    """Say whether a request means to open a WebSocket, well or badly.

    Another protocol's Upgrade (``h2c``) is not ours to judge and may be ignored (RFC 9110 §7.8). A request that
    has a Sec-WebSocket-Key but no Upgrade does mean it: a proxy in between has dropped the header.
    """
    headers = request.headers
    return headers.has_any(_OF_A_WEBSOCKET) or "websocket" in headers.tokens("Upgrade")


def check_method(request: Request) -> RequestCheck:
    """§4.2.1 item 1: the method is GET, in upper case as all methods are case-sensitive (RFC 9110 §9.1)."""
    refusal = None
    if request.method != "GET":
        sentence = f"A WebSocket handshake is a GET request, not {request.method}."
        refusal = Refusal(405, "method", sentence, ((b"Allow", b"GET"),))
    return Check("RFC 6455 §4.2.1 item 1", "the method is GET", request.method, refusal)


def check_http_version(request: Request) -> RequestCheck:
    """§4.2.1 item 1: HTTP/1.1 or higher; HTTP/1.0 has no Upgrade (RFC 9110 §7.8)."""
    refusal = None
    if request.http_version == "1.0":
        refusal = Refusal(400, "http_1_0", "A WebSocket handshake needs HTTP/1.1; HTTP/1.0 has no Upgrade.")
    return Check("RFC 6455 §4.2.1 item 1", "HTTP is 1.1 or higher", f"HTTP/{request.http_version}", refusal)


def check_target(request: Request) -> RequestCheck:
    """§4.2.1 item 1: the Request-URI is a resource name, or a URI that has one (§3)."""
    refusal = None
    if request.path is None:
        refusal = Refusal(400, "target", "A WebSocket handshake is for a path, such as /room.")
    return Check("RFC 6455 §4.2.1 item 1", "the target has a path", mask_target(request.target), refusal)


def check_host(request: Request) -> RequestCheck:
    """§4.2.1 item 2: one Host header, with the server's authority."""
    hosts = request.headers.get_all("Host")
    refusal = None
    if len(hosts) != 1 or not hosts[0]:
        refusal = Refusal(400, "host", "A WebSocket handshake needs one Host header that names the server.")
    return Check("RFC 6455 §4.2.1 item 2", "one Host header", found(hosts), refusal, "Host")


def check_upgrade(request: Request) -> RequestCheck:
    """§4.2.1 item 3: an Upgrade header that has the token "websocket", in any case."""
    refusal = None
    if "websocket" not in request.headers.tokens("Upgrade"):
        refusal = Refusal(
            426,
            "upgrade",
            "The Upgrade header with the token 'websocket' is missing; a proxy in between may have dropped it.",
            _WHAT_IS_REQUIRED,
        )
    values = request.headers.get_all("Upgrade")
    return Check("RFC 6455 §4.2.1 item 3", "Upgrade has the token 'websocket'", found(values), refusal, "Upgrade")


def check_connection(request: Request) -> RequestCheck:
    """§4.2.1 item 4: a Connection header that has the token "Upgrade", in any case."""
    refusal = None
    if "upgrade" not in request.headers.tokens("Connection"):
        refusal = Refusal(
            400,
            "connection",
            "The Connection header with the token 'Upgrade' is missing; a proxy in between may have dropped it.",
        )
    values = request.headers.get_all("Connection")
    return Check("RFC 6455 §4.2.1 item 4", "Connection has the token 'Upgrade'", found(values), refusal, "Connection")


def check_key(request: Request) -> RequestCheck:
    """§4.2.1 item 5: one Sec-WebSocket-Key, which decodes to 16 bytes."""
    keys = request.headers.get_all("Sec-WebSocket-Key")
    sentence = ""
    if not keys:
        sentence = "The Sec-WebSocket-Key header is missing."
    elif len(keys) > 1:
        sentence = "There is more than one Sec-WebSocket-Key header."
    else:
        try:
            size = len(base64.b64decode(keys[0], validate=True))
        except binascii.Error:
            sentence = "The Sec-WebSocket-Key is not base64."
        else:
            if size != KEY_BYTES:
                sentence = f"The Sec-WebSocket-Key decodes to {size} bytes, not {KEY_BYTES}."
    refusal = Refusal(400, "key", sentence) if sentence else None
    return Check(
        "RFC 6455 §4.2.1 item 5", "one Sec-WebSocket-Key of 16 bytes", found(keys), refusal, "Sec-WebSocket-Key"
    )


def check_version(request: Request) -> RequestCheck:
    """§4.2.1 item 6: Sec-WebSocket-Version is 13; otherwise the answer names 13 (§4.4)."""
    versions = request.headers.get_all("Sec-WebSocket-Version")
    refusal = None
    if versions != [VERSION]:
        refusal = Refusal(
            426,
            "version",
            "The Sec-WebSocket-Version must be 13, the version of RFC 6455; send it in one header.",
            _WHAT_IS_REQUIRED,
        )
    return Check(
        "RFC 6455 §4.2.1 item 6", "Sec-WebSocket-Version is 13", found(versions), refusal, "Sec-WebSocket-Version"
    )


def check_no_body(request: Request) -> RequestCheck:
    """No body comes with the request: what follows its head would be read as frames by us and as a body by others.

    RFC 6455 says nothing about it. RFC 9110 §7.8 has the new protocol begin after the request's body, and a proxy may
    find its end in another place than we do.
    """
    if not request.has_body:
        return Check("RFC 9110 §7.8", "no body", "none")
    refusal = Refusal(400, "upgrade_with_body", "A WebSocket handshake has no body.")
    return Check("RFC 9110 §7.8", "no body", "a body", refusal)


def check_origin(request: Request, origins: Origins) -> RequestCheck:
    """§4.2.2 item 4, §10.2: the page that connects is one of ours, or is allowed."""
    values = request.headers.get_all("Origin")
    shown = [mask_target(value) for value in values]
    refusal = None
    if len(values) > 1:
        refusal = Refusal(400, "origin_repeated", "There is more than one Origin header.")
    elif values and not origins.allow(values[0], request.authority):
        refusal = Refusal(
            403,
            "origin",
            f"Pages from {name_origin(shown[0])} may not connect to this server.",
            hint=origins.advise(shown[0]),
        )
    return Check("RFC 6455 §10.2", "the Origin is this host, allowed, or none", found(shown), refusal, "Origin")


def check_subprotocols(request: Request, offered: list[str]) -> RequestCheck:
    """§4.2.1 item 8, §11.3.4: the subprotocols on offer are tokens, and each is named once (§4.1 item 10)."""
    refusal = None
    if odd := [name for name in offered if not is_token(name)]:
        name = repr(mask_subprotocols(odd[0]))
        refusal = Refusal(400, "subprotocol", f"The subprotocol {name} in Sec-WebSocket-Protocol is not a token.")
    elif len(set(offered)) < len(offered):
        refusal = Refusal(400, "subprotocol", "Sec-WebSocket-Protocol names a subprotocol twice.")
    values = request.headers.get_all("Sec-WebSocket-Protocol")
    return Check(
        "RFC 6455 §4.2.1 item 8",
        "the subprotocols are tokens, each named once",
        mask_subprotocols(found(values)),
        refusal,
        "Sec-WebSocket-Protocol",
    )


def examine(request: Request, origins: Origins, *, compression: bool = True) -> Handshake:
    """Check a request against every requirement, and say whether it is accepted.

    With ``compression``, the first legal offer of permessage-deflate is accepted (§9.1, RFC 7692 §5.1). An illegal
    offer is no reason for a refusal.
    """
    checks = [
        check_method(request),
        check_http_version(request),
        check_target(request),
        check_host(request),
        check_upgrade(request),
        check_connection(request),
        check_key(request),
        check_version(request),
        check_no_body(request),
        check_origin(request, origins),
    ]
    offered: tuple[str, ...] = ()
    if "Sec-WebSocket-Protocol" in request.headers:
        names = [
            part.strip() for value in request.headers.get_all("Sec-WebSocket-Protocol") for part in value.split(",")
        ]
        offered = tuple(filter(None, names))  # RFC 9110 §5.6.1.2: empty elements are ignored
        checks.append(check_subprotocols(request, list(offered)))
    refusal = next((check.problem for check in checks if check.problem is not None), None)
    accept = None
    if refusal is None:
        (key,) = request.headers.get_all("Sec-WebSocket-Key")
        accept = Accept.of(key)
    deflate = answer_offers(request.headers.get_all("Sec-WebSocket-Extensions")) if compression else None
    return Handshake(tuple(checks), request.path or "", accept, refusal, deflate, offered)
