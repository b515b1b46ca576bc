"""A WebSocket connection followed from outside: bytes of either direction in, described heads and frames out.

Three commands use it: ``rawws decode`` with a capture, ``rawws tap`` between the two ends, and ``rawws check`` with a
server's answers. The judges are those of a server or client: the handshake's checks, h11 for HTTP, wsproto for frames.

One direction alone is enough, from its first byte or from any frame boundary on. Facts that only the other direction
has, such as the extensions that were agreed on, are then assumed in the sender's favour.

An observer can't refuse a peer that sends too much, as a server does with 431 or 1009. So its memory doesn't grow with
the bytes. A message of any size is judged as it passes, and not collected; no byte is searched twice; and the
observer stops following, with a remark, when too many bytes wait for the other side's answer.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Mapping
from enum import Enum

import h11

from rawws.errors import Refusal
from rawws.inspection.frame_judge import Compression, FrameJudge
from rawws.inspection.seen import MAX_SHOWN_BYTES, Head, Rest, Seen, Switch
from rawws.limits import NO_LIMIT, Limits
from rawws.wire import http1
from rawws.wire.checks import AnswerCheck, RequestCheck
from rawws.wire.client_handshake import examine_answer
from rawws.wire.deflate import NAME, parse_extensions
from rawws.wire.frames import MASK
from rawws.wire.handshake import Accept, examine, wants_websocket
from rawws.wire.http1 import HttpPhase, Signal
from rawws.wire.messages import Headers, Request, Response
from rawws.wire.origins import Origins
from rawws.wire.role import Role
from rawws.wire.trace import escape, printable, shorten

_HEAD_END = re.compile(rb"\r?\n\r?\n")
_REQUEST_LINE = re.compile(rb"[-!#$%&'*+.^_`|~0-9A-Za-z]{1,32} [^\r\n]")
_STILL_A_LINE = re.compile(rb"[!-~][\t -~]*(?:[\r\n](?s:.)*)?")  # or the beginning of one
_MAX_HEAD_BYTES = 256 * 1024
# There are no other limits: those of a server are about its own traffic.
_LIMITS = Limits(
    max_header_bytes=_MAX_HEAD_BYTES, max_target_bytes=_MAX_HEAD_BYTES, max_headers=NO_LIMIT, max_body_bytes=NO_LIMIT
)
# Sentences that are true of any server, in place of those that a server has for its own refusals.
_NEUTRAL = {
    "connect": "CONNECT asks for a tunnel: what runs through it is not followed",
    "http_version": "this is not HTTP/1.0 or HTTP/1.1: what follows is not read",
}
# The most bytes that requests take while they wait for their answers; the second number is for the objects of each.
_MAX_AWAITED_BYTES = _MAX_HEAD_BYTES
_REQUEST_BYTES = 2048
_ResponseEvent = h11.InformationalResponse | h11.Response

# A request in place of one that was not seen, to read its response.
_SOME_REQUEST = Request(
    "GET", "/", "1.1", Headers([("Host", "-"), ("Connection", "Upgrade"), ("Upgrade", "websocket")])
)


def begins_with_http(data: bytes) -> bool:
    """Say whether a stream begins with an HTTP message; otherwise it may begin with a frame."""
    return data.startswith(b"HTTP/") or _REQUEST_LINE.match(data.lstrip(b"\r\n")) is not None


def guess_sender(data: bytes) -> Role:
    """Return the sender of bytes: a client sends requests and masked frames (RFC 6455 §5.1)."""
    if begins_with_http(data):
        return Role.SERVER if data.startswith(b"HTTP/") else Role.CLIENT
    return Role.CLIENT if len(data) > 1 and data[1] & MASK else Role.SERVER


class Observer:
    """Follows one connection. Feed each direction's bytes in order; `finish` returns the rest.

    With ``in_frames``, the bytes begin after the handshake, and compression may have been agreed on. ``shown_bytes`` of
    each payload are kept, or all of a control frame's. The bytes that a client sends after an upgrade wait for the
    answer; the client is not followed any more when they are more than ``max_waiting_bytes``.
    """

    def __init__(self, *, in_frames: bool = False, shown_bytes: int = 0, max_waiting_bytes: int = NO_LIMIT) -> None:
        self.shown_bytes = shown_bytes  # may be changed at any time, and counts from the next frame on
        self._max_waiting_bytes = max_waiting_bytes
        self._directions = {role: _Direction(role) for role in Role}
        self._requests: deque[_Asked] = deque()  # not yet answered
        self._awaited_bytes = 0  # the memory that they take
        self._asked: _Asked | None = None  # the one for an upgrade, if it is not yet answered
        self.switched = False
        if in_frames:
            self._switch({role: Compression(from_start=False) for role in Role})

    def receive(self, sender: Role, data: bytes) -> list[Seen]:
        """Read the next bytes of one direction and return the parts that they complete. Raises for no bytes."""
        out: list[Seen] = []
        if data:
            self._directions[sender.other].report_fault(out)  # the cause is reported before the answer to it
        direction = self._directions[sender]
        direction.buffer += data
        self._read(direction, out)
        return out

    def leave_out_body(self, sender: Role) -> None:
        """Read the sender's next bytes as a head: a body that was to come before is not in the capture."""
        direction = self._directions[sender]
        if direction.mode is _Mode.BODY:
            direction.end_body()

    def finish(self) -> list[Seen]:
        """Return the incomplete parts of both directions, at the end of the connection."""
        out: list[Seen] = []
        client = self._directions[Role.CLIENT]
        if client.mode is _Mode.WAITING and client.buffer and self._asked is not None:
            # The answer is missing. The bytes are taken for frames, as they are if the server accepted.
            self._switch({role: Compression() for role in Role} if self._asked.offered_compression else {})
            self._read(client, out)
        for direction in self._directions.values():
            direction.finish(out)
        return out

    def _switch(self, compression: Mapping[Role, Compression]) -> None:
        """Go on with frames; ``compression`` is that of each side, and empty if there is none."""
        self.switched = True
        for direction in self._directions.values():
            if direction.mode is _Mode.LOST:
                continue
            direction.frames = FrameJudge(direction.sender, direction.at, compression.get(direction.sender))
            direction.mode = _Mode.FRAMES

    def _read(self, direction: _Direction, out: list[Seen]) -> None:
        while direction.buffer:
            match direction.mode:
                case _Mode.HEAD:
                    if not self._read_head(direction, out):
                        return
                case _Mode.BODY:
                    if not direction.pass_over_body(out):
                        return
                case _Mode.FRAMES:
                    assert direction.frames is not None
                    direction.frames.shown_bytes = self.shown_bytes
                    direction.frames.receive(direction.take(len(direction.buffer)), out)
                case _Mode.LOST:
                    direction.take(len(direction.buffer))
                case _:  # WAITING
                    if len(direction.buffer) <= self._max_waiting_bytes:
                        return
                    direction.lose(out, "more came behind the upgrade than is kept until it is answered")

    def _read_head(self, direction: _Direction, out: list[Seen]) -> bool:
        direction.skip_empty_lines()
        if not direction.buffer:
            return False
        size = direction.find_head_end()
        if (size or len(direction.buffer)) > _MAX_HEAD_BYTES:
            direction.lose(out, f"a head of more than {_MAX_HEAD_BYTES:,} bytes is not looked at")
            return True
        if not size:
            if _STILL_A_LINE.fullmatch(direction.buffer, 0, 64):
                return False
            direction.lose(out, "this is not the head of an HTTP message")
            return True
        at, raw = direction.at, direction.take(size)
        if direction.sender is Role.CLIENT:
            self._read_request(direction, at, raw, out)
        else:
            self._read_response(direction, at, raw, out)
        return True

    def _read_request(self, direction: _Direction, at: int, raw: bytes, out: list[Seen]) -> None:
        http = HttpPhase(_LIMITS)
        http.receive_data(raw)
        request = http.next_event()
        if not isinstance(request, Request):
            out.append(Head(Role.CLIENT, at, raw, problem=_why_not(request)))
            direction.mode = _Mode.LOST
            return
        asked = _Asked(request)
        self._requests.append(asked)
        self._awaited_bytes += asked.size
        out.append(Head(Role.CLIENT, at, raw, asked.checks, asked.accept))
        if self._awaited_bytes > _MAX_AWAITED_BYTES and len(self._requests) > 1:
            direction.lose(out, "more requests wait for their answers than are kept")
        elif asked.upgrades:
            self._asked = asked
            direction.mode = _Mode.WAITING
        elif request.has_body:
            direction.http = http
            direction.mode = _Mode.BODY

    def _read_response(self, direction: _Direction, at: int, raw: bytes, out: list[Seen]) -> None:
        asked = self._requests[0] if self._requests else _Asked(_SOME_REQUEST)
        if direction.answer is None:
            direction.answer = asked.answer_reader()
        event = _read_response_head(direction.answer, raw)
        if isinstance(event, str):
            out.append(Head(Role.SERVER, at, raw, problem=event))
            direction.mode = _Mode.LOST
            return
        is_final = event.status_code >= 200  # RFC 9110 §15.2: others are interim responses, but for the 101
        checks = asked.examine(event) if asked.upgrades and (is_final or event.status_code == 101) else ()
        out.append(Head(Role.SERVER, at, raw, checks))
        if event.status_code == 101:
            self._leave_http(asked, event, out)
        elif is_final:
            self._end_request(asked)
            direction.mode = _Mode.BODY
            direction.pass_over_body(out)

    def _leave_http(self, asked: _Asked, event: _ResponseEvent, out: list[Seen]) -> None:
        """Go on after a 101, with frames, or with a protocol that isn't followed."""
        protocol = asked.other_protocol(event)
        out.append(Switch(protocol))
        if protocol:
            for each in self._directions.values():
                each.mode = _Mode.LOST
        else:
            agreed = [value for name, value in event.headers if name == b"sec-websocket-extensions"]
            self._switch(_compression_of(agreed))
        self._read(self._directions[Role.CLIENT], out)

    def _end_request(self, asked: _Asked) -> None:
        """Forget a request that is answered. After a refused upgrade, the client may ask for something else."""
        if self._requests:
            self._awaited_bytes -= self._requests.popleft().size
        if asked is self._asked:
            self._asked = None
            client = self._directions[Role.CLIENT]
            if client.mode is _Mode.WAITING:
                client.mode = _Mode.HEAD


def _read_response_head(http: h11.Connection, raw: bytes) -> _ResponseEvent | str:
    """Return the event of a whole head, or a sentence that says why the bytes aren't one."""
    try:
        http.receive_data(raw)
        event = http.next_event()
    except (h11.RemoteProtocolError, h11.LocalProtocolError) as error:
        return f"this is not the head of a response: {error}"
    assert isinstance(event, h11.InformationalResponse | h11.Response)  # since the head is whole
    if event.status_code > 599:
        return f"this is not the head of a response: {event.status_code} is no status of HTTP (RFC 9110 §15)"
    return event


def _compression_of(agreed: list[bytes]) -> Mapping[Role, Compression]:
    """Return each side's compression by the server's response (RFC 7692 §7.1); empty if there is none.

    An incomplete or malformed answer is read in the sender's favour.
    """
    text = [value.decode("latin-1") for value in agreed]
    if not any(NAME in value for value in text):
        return {}
    listed = next((each for each in parse_extensions(text) or () if each.name == NAME), None)
    names = {name for name, _ in listed.parameters} if listed is not None else set()
    return {role: Compression(f"{role.label}_no_context_takeover" not in names) for role in Role}


def _why_not(event: http1.HttpEvent) -> str:
    """Return why this is not the head of a request, in a sentence that is true of any server."""
    refusal = event if isinstance(event, Refusal) else Refusal(400, "", "this is not the head of a request")
    return _NEUTRAL.get(refusal.code, refusal.sentence)


class _Mode(Enum):
    HEAD = "head"
    BODY = "body"
    WAITING = "waiting"  # for the server's answer, which decides whether frames follow
    FRAMES = "frames"
    LOST = "lost"  # it can't be followed


class _Asked:
    """A request, with the facts by which its answer is judged."""

    def __init__(self, request: Request) -> None:
        self.request = request
        self.size = len(request.raw_head) + _REQUEST_BYTES
        self.upgrades = wants_websocket(request)
        self.checks: tuple[RequestCheck, ...] = ()
        self.accept: Accept | None = None
        self.offered_subprotocols: tuple[str, ...] = ()
        self.offered_compression = "Sec-WebSocket-Extensions" in request.headers
        if self.upgrades and request is not _SOME_REQUEST:
            handshake = examine(request, Origins(["*"]))
            # Which pages may connect is for each server to say.
            self.checks = tuple(check for check in handshake.checks if check.section != "RFC 6455 §10.2")
            self.offered_subprotocols = handshake.offered_subprotocols
            keys = request.headers.get_all("Sec-WebSocket-Key")
            if len(keys) == 1:
                self.accept = Accept.of(keys[0])

    def answer_reader(self) -> h11.Connection:
        """Return a connection of h11's that has sent the request, and so can read its answer."""
        http = h11.Connection(h11.CLIENT, max_incomplete_event_size=_MAX_HEAD_BYTES)
        request = self.request
        fields = [(name, value) for name, value in request.headers.raw() if name.lower() != b"content-length"]
        if "Host" not in request.headers:  # HTTP/1.0 may do without, and h11 speaks 1.1 only
            fields.append((b"Host", b"-"))
        http.send(h11.Request(method=request.method, target=request.target, headers=fields))
        return http

    def other_protocol(self, event: _ResponseEvent) -> str:
        """Return the protocol after a 101, by its own fields or the request's; empty for WebSocket.

        A 101 to a request for a WebSocket that names no protocol breaks §4.1, and is followed by frames.
        """
        named = b", ".join(value for name, value in event.headers if name == b"upgrade").decode("latin-1")
        if not named and not self.upgrades:
            named = ", ".join(self.request.headers.get_all("Upgrade"))
        return "" if not named or "websocket" in named.lower() else shorten(printable(named))

    def examine(self, event: _ResponseEvent) -> tuple[AnswerCheck, ...]:
        fields = [(name.decode("ascii"), escape(value)) for name, value in event.headers.raw_items()]
        response = Response(event.status_code, b"", Headers(fields))
        known = self.request is not _SOME_REQUEST
        offered = self.offered_subprotocols if known else response.headers.get_all("Sec-WebSocket-Protocol")
        compression = self.offered_compression if known else True
        return examine_answer(
            response, self.accept, offered_subprotocols=offered, offered_compression=compression
        ).checks


class _Direction:
    """The bytes of one side."""

    def __init__(self, sender: Role) -> None:
        self.sender = sender
        self.mode = _Mode.HEAD
        self.at = 0  # the offset of the buffer in the stream
        self.buffer = bytearray()
        self.searched = 0  # bytes of it, for the end of a head
        self.http: HttpPhase | None = None  # of a request whose body is passed over
        self.answer: h11.Connection | None = None  # of a response that is read
        self.frames: FrameJudge | None = None

    def take(self, size: int) -> bytes:
        data = bytes(self.buffer[:size])
        del self.buffer[:size]
        self.at += size
        self.searched = 0
        return data

    def skip_empty_lines(self) -> None:
        """Ignore empty lines in front of a request (RFC 9112 §2.2)."""
        if self.buffer.startswith((b"\r", b"\n")):
            self.take(len(self.buffer) - len(self.buffer.lstrip(b"\r\n")))

    def find_head_end(self) -> int:
        """Return the length of the head at the beginning of the buffer; 0 if its end has not come."""
        end = _HEAD_END.search(self.buffer, max(0, self.searched - 3))  # a part of the end may have been there
        self.searched = len(self.buffer)
        return 0 if end is None else end.end()

    def lose(self, out: list[Seen], reason: str) -> None:
        """Stop following this direction, since the meaning of its bytes is unknown from here on."""
        out.append(Rest(self.sender, self.at, bytes(self.buffer[:MAX_SHOWN_BYTES]), reason))
        self.mode = _Mode.LOST

    def pass_over_body(self, out: list[Seen]) -> bool:
        """Read to the end of a body. Return False if more bytes are needed for that."""
        given = len(self.buffer)
        ended = self._read_request_body() if self.sender is Role.CLIENT else self._read_response_body()
        if ended is None:
            self.lose(out, "the body can't be followed")
            return True
        if not ended:
            self.take(given)
            return False
        left = self._left_over()
        self.take(given - left)
        self.end_body()
        return True

    def end_body(self) -> None:
        """Continue with the next head."""
        self.http = self.answer = None
        self.mode = _Mode.HEAD

    def _left_over(self) -> int:
        connection = self.http if self.sender is Role.CLIENT else self.answer
        assert connection is not None
        return len(connection.trailing_data[0])

    def _read_request_body(self) -> bool | None:
        assert self.http is not None
        self.http.receive_data(bytes(self.buffer))
        while (event := self.http.next_event()) is not Signal.END_OF_BODY:
            if event is Signal.NEED_DATA:
                return False
            if isinstance(event, Refusal):
                return None
        return True

    def _read_response_body(self) -> bool | None:
        assert self.answer is not None
        try:
            if self.buffer:
                self.answer.receive_data(bytes(self.buffer))
            while not isinstance(event := self.answer.next_event(), h11.EndOfMessage):
                if event is h11.NEED_DATA or event is h11.PAUSED:
                    return False
        except h11.RemoteProtocolError:
            return None
        return True

    def report_fault(self, out: list[Seen]) -> None:
        """Add the incomplete frame, if its receiver has found a fault in it."""
        if self.frames is not None:
            self.frames.report_fault(out)

    def finish(self, out: list[Seen]) -> None:
        if self.frames is not None:
            self.frames.finish(out)
        elif self.buffer and self.mode is not _Mode.LOST:
            out.append(Rest(self.sender, self.at, bytes(self.buffer[:MAX_SHOWN_BYTES]), "the head ends here"))
