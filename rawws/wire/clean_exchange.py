"""The fast lane of HTTP/1.1: requests whose head is beyond doubt, and the responses to them, without h11.

h11 is the one judge of what a head means. A head is clean if it is complete, is a GET or HEAD of HTTP/1.1 without a
body, has a path as its target, lines of printable ASCII that end with CR LF, and one valid Host. There are no two
readings of such a head, so its lines are split here. Every other head goes to h11, and so does a request with a clean
head whose response isn't plain: one without a Content-Length, one that closes the connection, or one with a field that
h11 has an opinion about. A test holds both lanes to the same events, bytes and errors.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from enum import Enum
from functools import lru_cache
from http import HTTPStatus

import h11

from rawws.limits import KIB, Limits
from rawws.wire.messages import Headers, Request, Response
from rawws.wire.trace import SECRET_HEADERS

# RFC 9110 §7.2: a host with an optional port, after RFC 3986 §3.2.2 without user information.
HOST = re.compile(r"(?:[A-Za-z0-9._~!$&'()*+,;=%-]*|\[[0-9A-Fa-f:.]+\])(?::[0-9]{0,5})?")
# The bytes of a request line besides its target: the method, two spaces, the version and the CR (RFC 9112 §3).
LINE_BYTES = 32

_TOKEN = rb"[-!#$%&'*+.^_`|~0-9A-Za-z]+"
_HEAD = re.compile(rb'(GET|HEAD) (/[!"$-~]*) HTTP/1\.1\r\n((?:' + _TOKEN + rb":[\t -~]*\r\n)*)\r\n")
# A field of a head that the pattern above has matched. White space at the end of the value is left.
_FIELD = re.compile(r"([^:]+):[\t ]*([^\r]*)\r\n")
# Fields that say how the message ends, or that want an answer before it does.
_ABOUT_FRAMING = frozenset({"content-length", "transfer-encoding", "expect"})
_ABOUT_CONNECTION = frozenset({"connection", "upgrade"})

_NAME = re.compile(_TOKEN)
_VALUE = re.compile(rb"(?:[!-~]+(?:[ \t]+[!-~]+)*)?")
_LENGTH = re.compile(rb"[0-9]{1,15}")
# Fields that change what comes after the head, or that h11 puts elsewhere.
_JUDGED_IN_RESPONSES = frozenset({b"connection", b"host", b"transfer-encoding", b"upgrade"})
_JUDGED_IN_WHOLE = frozenset({"connection", "content-length", "host", "transfer-encoding", "upgrade"})
_JUDGED_IN_SWITCHES = frozenset({b"content-length", b"host", b"transfer-encoding"})


class _Sent(Enum):
    """How much of the response was sent. The values are the names of h11's states."""

    NOTHING = "SEND_RESPONSE"
    HEAD = "SEND_BODY"
    ALL = "DONE"
    SWITCHED = "SWITCHED_PROTOCOL"  # the 101
    FAILED = "ERROR"  # after a part that was out of turn, or a body that isn't as long as it was announced


class CleanExchange:
    """A request with a clean head, its response, and the bytes that came after the request."""

    __slots__ = ("_is_head", "_left", "_sent", "_wants_upgrade", "end_was_told", "has_ended", "request", "trailing")

    def __init__(self, request: Request, trailing: bytes | bytearray) -> None:
        self.request = request
        self.trailing = bytearray(trailing)
        self.has_ended = False  # the peer's stream, after the trailing bytes
        self.end_was_told = False  # the end of the request's body, which is empty
        self._is_head = request.method == "HEAD"
        self._wants_upgrade = "Upgrade" in request.headers
        self._sent = _Sent.NOTHING
        self._left = 0  # bytes of the response's body that are still to be sent

    def receive_data(self, data: bytes) -> None:
        """Take in bytes after the request; empty at the end of the stream."""
        self.trailing += data
        self.has_ended |= not data

    @property
    def response_begun(self) -> bool:
        return self._sent is not _Sent.NOTHING

    @property
    def can_continue(self) -> bool:
        """Whether the connection may be kept for another request."""
        return self._sent is _Sent.ALL

    # Output. h11 has to write whatever a method returns None for. A part that is out of turn raises
    # `h11.LocalProtocolError`: h11 doesn't know what was sent here, and would write a second head into the body.

    def respond(self, response: Response, more_fields: Sequence[tuple[bytes, bytes]]) -> tuple[bytes, bytes] | None:
        """Return a whole response as its head and its body, or None. ``more_fields`` come before its own."""
        self.check_turn("Response")
        whole = write_whole(response, more_fields, is_to_head=self._is_head)
        if whole is not None:
            self._sent = _Sent.ALL
        return whole

    def begin_response(
        self, status: int, fields: Sequence[tuple[bytes, bytes]], *, close: bool = False
    ) -> bytes | None:
        """Return the head of a response whose length is known, or None."""
        self.check_turn("Response")
        if close or status < 200 or status in (204, 304):
            return None
        lengths: list[bytes] = []
        head = _write_head(status, fields, _JUDGED_IN_RESPONSES, lengths)
        if head is None or len(lengths) != 1 or not _LENGTH.fullmatch(lengths[0]):
            return None
        self._left = 0 if self._is_head else int(lengths[0])
        self._sent = _Sent.HEAD
        return head

    def send_body(self, data: bytes) -> bytes:
        """Return a piece of the body as it goes on the wire. Raises `h11.LocalProtocolError` if it is too much."""
        self.check_turn("Data", _Sent.HEAD)
        self._left -= len(data)
        if self._left < 0:
            self._fail("Too much data for declared Content-Length")
        return data

    def end_response(self) -> bytes:
        """End the response. Raises `h11.LocalProtocolError` for less body than was announced."""
        self.check_turn("EndOfMessage", _Sent.HEAD)
        if self._left:
            self._fail("Too little data for declared Content-Length")
        self._sent = _Sent.ALL
        return b""

    def switch_protocols(self, fields: Sequence[tuple[bytes, bytes]]) -> bytes | None:
        """Return the 101 that ends the HTTP phase (RFC 9110 §15.2.2), or None."""
        self.check_turn("InformationalResponse")
        if not self._wants_upgrade:
            return None
        head = _write_head(101, fields, _JUDGED_IN_SWITCHES, [])
        if head is not None:
            self._sent = _Sent.SWITCHED
        return head

    def check_turn(self, event: str, expected: _Sent = _Sent.NOTHING) -> None:
        """Raise what h11 raises when an event is out of turn. Nothing more can be sent then."""
        if self._sent is _Sent.FAILED:
            self._fail("Can't send data when our state is ERROR")
        if self._sent is not expected:
            self._fail(f"can't handle event type {event} when role=SERVER and state={self._sent.value}")

    def _fail(self, reason: str) -> None:
        self._sent = _Sent.FAILED
        raise h11.LocalProtocolError(reason)


def read_clean(received: bytearray, limits: Limits, room: int) -> CleanExchange | None:
    """Return the exchange that the received bytes begin with; None if its head is not complete, or not clean.

    ``room`` is the number of bytes that the head may have.
    """
    found = _read_kept(bytes(received)) if _may_come_again(received) else _read(received)
    if found is None:
        return None
    request, line_end = found
    size = len(request.raw_head)
    if size > room or line_end > limits.max_target_bytes + LINE_BYTES or len(request.headers) > limits.max_headers:
        return None
    return CleanExchange(request, received[size:])


def _read(received: bytes | bytearray) -> tuple[Request, int] | None:
    """Return the clean request that bytes begin with, and where the CR of its request line is."""
    match = _HEAD.match(received)
    if match is None:
        return None
    lines = match[3].decode("ascii")
    fields = _FIELD.findall(lines)
    if " \r" in lines or "\t\r" in lines:
        fields = [(name, value.rstrip(" \t")) for name, value in fields]
    headers = Headers(fields)
    if not _is_clean(headers):
        return None
    request = Request(match[1].decode("ascii"), match[2].decode("ascii"), "1.1", headers, match[0])
    return request, match.end(2) + len(b" HTTP/1.1\r")


def _may_come_again(received: bytearray) -> bool:
    """Say whether bytes are one head, as it seems, that is small, and may be kept.

    A secret must not outlive its connection. A query has one, or a place that is new each time.
    """
    if len(received) > _MOST_KEPT_BYTES or not received.endswith(b"\r\n\r\n"):
        return False
    if received.count(b"\n") > _MOST_KEPT_LINES or b"?" in received:
        return False
    return _NOT_KEPT.search(received) is None


# Fields with secrets, and the one of a handshake, which is new each time.
_NOT_KEPT = re.compile(rb"\n(?:%b|sec-websocket-key):" % b"|".join(sorted(SECRET_HEADERS)), re.IGNORECASE)

# The same bytes come again and again, from clients that keep their connections and from health checks, and equal bytes
# have one reading. The kept requests depend on no connection and no limit, and take less than a megabyte.
_read_kept = lru_cache(maxsize=32)(_read)
_MOST_KEPT_BYTES = 2 * KIB
_MOST_KEPT_LINES = 32


def write_whole(
    response: Response, more_fields: Sequence[tuple[bytes, bytes]], *, is_to_head: bool
) -> tuple[bytes, bytes] | None:
    """Return a whole response to a clean head as its head and its body; None if h11 has to write it.

    ``more_fields`` come before the response's own. The answer to a HEAD (``is_to_head``) has no body.
    """
    status, headers = response.status, response.headers
    if status < 200 or status in (204, 304) or headers.has_any(_JUDGED_IN_WHOLE):
        return None
    own = headers.lines()
    if not own and len(headers):
        return None
    lines = [_status_line(status)]
    for field in more_fields:
        if (line := _common_line(*field)) is None:
            return None
        lines.append(line)
    lines += own, b"Content-Length: %d\r\n\r\n" % len(response.body)
    return b"".join(lines), b"" if is_to_head else response.body


def _is_clean(headers: Headers) -> bool:
    hosts = headers.get_all("Host")
    if len(hosts) != 1 or not HOST.fullmatch(hosts[0]) or headers.has_any(_ABOUT_FRAMING):
        return False
    if not headers.has_any(_ABOUT_CONNECTION):
        return True
    if "Connection" in headers and "close" in headers.tokens("Connection"):
        return False
    return "Upgrade" not in headers or bool(headers.tokens("Upgrade"))


def _write_head(
    status: int, fields: Sequence[tuple[bytes, bytes]], judged: frozenset[bytes], lengths: list[bytes]
) -> bytes | None:
    """Return a head, or None if h11 has to judge one of its fields. Values of Content-Length are added to a list."""
    lines = [_status_line(status)]
    for name, value in fields:
        lower = _lower(name)
        if lower is None or lower in judged or not _VALUE.fullmatch(value):
            return None
        if lower == b"content-length":
            lengths.append(value)
        lines.append(b"%b: %b\r\n" % (name, value))
    lines.append(b"\r\n")
    return b"".join(lines)


@lru_cache(maxsize=16)
def _common_line(name: bytes, value: bytes) -> bytes | None:
    """Return the line of a field that all responses have, or None if h11 has to judge it. Each Date is new."""
    lower = _lower(name)
    if lower is None or lower in _JUDGED_IN_RESPONSES or lower == b"content-length" or not _VALUE.fullmatch(value):
        return None
    return b"%b: %b\r\n" % (name, value)


@lru_cache(maxsize=256)
def _lower(name: bytes) -> bytes | None:
    """Return the name of a field in lower case, or None if it can't be one. The names are our own program's."""
    return name.lower() if _NAME.fullmatch(name) else None


@lru_cache(maxsize=256)
def _status_line(status: int) -> bytes:
    return b"HTTP/1.1 %d %b\r\n" % (status, reason_phrase(status))


def reason_phrase(status: int) -> bytes:
    """Return the phrase that goes with a status; empty where there is none, which RFC 9112 §4 allows."""
    try:
        return HTTPStatus(status).phrase.encode()
    except ValueError:
        return b""
