"""A WebSocket connection followed from outside: bytes of either direction in, described heads and frames out.

Its users see a connection from outside: ``rawws decode`` has a capture of it, ``rawws tap`` is between its two ends,
and ``rawws check`` has a server's answers. The checks are those of a server or client: the handshake's, h11 for HTTP,
wsproto for frames.

One direction alone is enough, from its first byte or from any frame boundary on. Facts that only the other direction
shows, such as the extensions that were agreed on, are then assumed in the sender's favour.

An observer can't refuse input, as a server can with 431 or 1009. So its memory does not grow with the input. A message
of any size is checked as it passes, and not collected. No byte is searched twice. If too much input waits for the other
side's answer, the observer says so and stops.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import Enum

import h11

from rawws.errors import Fault, Refusal
from rawws.limits import NO_LIMIT, Limits
from rawws.wire import http1
from rawws.wire.client_handshake import AnswerCheck, examine_answer
from rawws.wire.deflate import NAME, Unread, parse_extensions
from rawws.wire.events import Event, Failed
from rawws.wire.frames import MASK, Frame, FrameScanner, SeenMessage
from rawws.wire.handshake import Accept, Check, Origins, examine, wants_websocket
from rawws.wire.http1 import HttpPhase, Signal
from rawws.wire.message_view import MessageView
from rawws.wire.messages import Headers, Request, Response
from rawws.wire.plain import PlainReader
from rawws.wire.role import Role
from rawws.wire.trace import FrameRecorder, escape, printable, shorten

_HEAD_END = re.compile(rb"\r?\n\r?\n")
_REQUEST_LINE = re.compile(rb"[-!#$%&'*+.^_`|~0-9A-Za-z]{1,32} [^\r\n]")
_STILL_A_LINE = re.compile(rb"[!-~][\t -~]*(?:[\r\n](?s:.)*)?")  # or the beginning of one
_MAX_HEAD_BYTES = 256 * 1024
# The only limit on observed traffic; a server's own limits are about its own traffic.
_LIMITS = Limits(
    max_header_bytes=_MAX_HEAD_BYTES, max_target_bytes=_MAX_HEAD_BYTES, max_headers=NO_LIMIT, max_body_bytes=NO_LIMIT
)
# Refusals by kind of request, in words that are true of any server.
_NEUTRAL = {
    "connect": "CONNECT asks for a tunnel: what runs through it is not followed",
    "http_version": "this is not HTTP/1.0 or HTTP/1.1: what follows is not read",
}
# The memory of requests that wait for their answers: heads, each with its objects.
_MAX_AWAITED_BYTES = _MAX_HEAD_BYTES
_REQUEST_BYTES = 2048
# The bytes that are checked at a time.
_JUDGED_BYTES = 4096
# The number of frames that are listed after the one that ended the reading.
_MOST_IGNORED_FRAMES = 1000
_MOST_SHOWN_BYTES = 64
# A request that stands in for one that wasn't seen, to read its response.
_SOME_REQUEST = Request(
    "GET", "/", "1.1", Headers([("Host", "-"), ("Connection", "Upgrade"), ("Upgrade", "websocket")])
)


@dataclass(frozen=True, slots=True)
class Head:
    """The head of an HTTP message, which begins ``at`` that byte of its direction.

    ``checks`` are the handshake's, if the request or response is a part of one. ``accept`` is made from the request's
    key, if that is valid. ``problem`` says why the head can't be read.
    """

    sender: Role
    at: int
    raw: bytes
    checks: tuple[Check | AnswerCheck, ...] = ()
    accept: Accept | None = None
    problem: str = ""

    @property
    def is_fine(self) -> bool:
        return not self.problem and all(check.holds for check in self.checks)


@dataclass(frozen=True, slots=True)
class Switch:
    """HTTP ends here, in both directions. Frames follow, or another ``protocol``, which isn't followed."""

    protocol: str = ""


@dataclass(frozen=True, slots=True)
class SeenFrame:
    """One frame, with the message that ends with it; ``fault`` is its receiver's objection, if any.

    It is ``ignored`` after a close or a fault, since the receiver reads no more then (§5.5.1, §7.1.7).
    """

    sender: Role
    at: int
    frame: Frame
    fault: Fault | None = None
    ignored: bool = False

    @property
    def message(self) -> SeenMessage | None:
        return self.frame.message


@dataclass(frozen=True, slots=True)
class Rest:
    """Bytes that are no whole head or frame, or can't be followed; ``told`` says why. Long ones are cut."""

    sender: Role
    at: int
    raw: bytes
    told: str
    fault: Fault | None = None


Seen = Head | Switch | SeenFrame | Rest


def begins_with_http(data: bytes) -> bool:
    """Say whether a stream's first bytes are those of an HTTP message; otherwise they may be a frame's."""
    return data.startswith(b"HTTP/") or _REQUEST_LINE.match(data.lstrip(b"\r\n")) is not None


def guess_sender(data: bytes) -> Role:
    """Return the sender of these bytes: a request or a masked frame is from a client (RFC 6455 §5.1)."""
    if begins_with_http(data):
        return Role.SERVER if data.startswith(b"HTTP/") else Role.CLIENT
    return Role.CLIENT if len(data) > 1 and data[1] & MASK else Role.SERVER


class Observer:
    """Follows one connection. Feed each direction's bytes in order; `finish` returns what is incomplete.

    With ``in_frames`` the handshake is over, and compression may have been agreed on. ``shown_bytes`` of each frame's
    payload are kept, or all of a control frame. Bytes that a client sends after an upgrade request wait for the
    answer; more than ``max_waiting_bytes`` of them are not followed.
    """

    def __init__(self, *, in_frames: bool = False, shown_bytes: int = 0, max_waiting_bytes: int = NO_LIMIT) -> None:
        self.shown_bytes = shown_bytes  # may be changed at any time, and counts from the next frame on
        self._max_waiting_bytes = max_waiting_bytes
        self._directions = {role: _Direction(role) for role in Role}
        self._requests: deque[_Asked] = deque()  # requests without an answer yet
        self._awaited_bytes = 0  # the memory of these
        self._asked: _Asked | None = None  # the upgrade request that waits for its answer
        self.switched = False
        if in_frames:
            self._switch({role: _Compression(from_start=False) for role in Role})

    def receive(self, sender: Role, data: bytes) -> list[Seen]:
        """Process the next bytes of one direction, and return what they complete. Never raises, whatever they are."""
        out: list[Seen] = []
        if data:
            self._directions[sender.other].tell_fault(out)  # the cause is told before the answer to it
        direction = self._directions[sender]
        direction.buffer += data
        self._read(direction, out)
        return out

    def leave_out_body(self, sender: Role) -> None:
        """Expect a head next in that direction. A body that should come before is not in the capture."""
        direction = self._directions[sender]
        if direction.mode is _Mode.BODY:
            direction.end_body()

    def finish(self) -> list[Seen]:
        """Return the incomplete rest of both directions when the connection ends."""
        out: list[Seen] = []
        client = self._directions[Role.CLIENT]
        if client.mode is _Mode.WAITING and client.buffer and self._asked is not None:
            # The answer is missing. If the server accepted, these bytes are frames.
            self._switch({role: _Compression() for role in Role} if self._asked.offered_compression else {})
            self._read(client, out)
        for direction in self._directions.values():
            direction.finish(out)
        return out

    def _switch(self, compression: Mapping[Role, _Compression]) -> None:
        """Continue with frames. ``compression`` is that of each side, and empty if there is none."""
        self.switched = True
        for direction in self._directions.values():
            if direction.mode is _Mode.LOST:
                continue
            direction.frames = _Frames(direction.sender, direction.at, compression.get(direction.sender))
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
        http = direction.answer
        if http is None:
            http = direction.answer = h11.Connection(h11.CLIENT, max_incomplete_event_size=_MAX_HEAD_BYTES)
            request = asked.request
            fields = [(name, value) for name, value in request.headers.raw() if name.lower() != b"content-length"]
            if "Host" not in request.headers:  # HTTP/1.0 may do without, and h11 speaks 1.1 only
                fields.append((b"Host", b"-"))
            http.send(h11.Request(method=request.method, target=request.target, headers=fields))
        try:
            http.receive_data(raw)
            event = http.next_event()
            assert isinstance(event, h11.InformationalResponse | h11.Response)  # since the head is whole
            if event.status_code > 599:
                raise h11.RemoteProtocolError(f"{event.status_code} is no status of HTTP (RFC 9110 §15)")
        except (h11.RemoteProtocolError, h11.LocalProtocolError) as error:
            out.append(Head(Role.SERVER, at, raw, problem=f"this is not the head of a response: {error}"))
            direction.mode = _Mode.LOST
            return
        switches = event.status_code == 101
        checks = asked.examine(event) if asked.upgrades and (switches or event.status_code >= 200) else ()
        out.append(Head(Role.SERVER, at, raw, checks))
        if switches:
            protocol = asked.other_protocol(event)
            out.append(Switch(protocol))
            if protocol:
                for each in self._directions.values():
                    each.mode = _Mode.LOST
            else:
                agreed = [value for name, value in event.headers if name == b"sec-websocket-extensions"]
                self._switch(_compression_of(agreed))
            self._read(self._directions[Role.CLIENT], out)
        elif event.status_code >= 200:
            direction.mode = _Mode.BODY
            if self._requests:
                self._awaited_bytes -= self._requests.popleft().size
            if asked is self._asked:
                self._asked = None
                client = self._directions[Role.CLIENT]
                if client.mode is _Mode.WAITING:  # it may ask for something else now
                    client.mode = _Mode.HEAD
            direction.pass_over_body(out)


@dataclass(frozen=True, slots=True)
class _Compression:
    """One side's compression, as far as it is known. ``from_start`` says that the observer sees all its messages."""

    keeps_context: bool = True
    from_start: bool = True


def _compression_of(agreed: list[bytes]) -> Mapping[Role, _Compression]:
    """Return each side's compression by the server's response (RFC 7692 §7.1); empty if there is none.

    An incomplete or malformed answer is read in the sender's favour.
    """
    text = [value.decode("latin-1") for value in agreed]
    if not any(NAME in value for value in text):
        return {}
    listed = next((each for each in parse_extensions(text) or () if each.name == NAME), None)
    names = {name for name, _ in listed.parameters} if listed is not None else set()
    return {role: _Compression(f"{role.name.lower()}_no_context_takeover" not in names) for role in Role}


def _why_not(event: http1.Event) -> str:
    """Return why this is not the head of a request, in words that are true of any server."""
    refusal = event if isinstance(event, Refusal) else Refusal(400, "", "this is not the head of a request")
    return _NEUTRAL.get(refusal.code, refusal.sentence)


class _Mode(Enum):
    HEAD = "head"
    BODY = "body"
    WAITING = "waiting"  # for the server's answer, which decides whether frames follow
    FRAMES = "frames"
    LOST = "lost"  # it can't be followed


class _Asked:
    """The parts of a request that are needed to check its answer."""

    def __init__(self, request: Request) -> None:
        self.request = request
        self.size = len(request.raw_head) + _REQUEST_BYTES
        self.upgrades = wants_websocket(request)
        self.checks: tuple[Check, ...] = ()
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

    def other_protocol(self, event: h11.InformationalResponse | h11.Response) -> str:
        """Return the protocol after a 101 if that isn't WebSocket: the one that it names, or else the requested one.

        If a 101 to a WebSocket request names no protocol, it breaks §4.1 and frames follow.
        """
        named = b", ".join(value for name, value in event.headers if name == b"upgrade").decode("latin-1")
        if not named and not self.upgrades:
            named = ", ".join(self.request.headers.get_all("Upgrade"))
        return "" if not named or "websocket" in named.lower() else shorten(printable(named))

    def examine(self, event: h11.InformationalResponse | h11.Response) -> tuple[AnswerCheck, ...]:
        fields = [(name.decode("ascii"), escape(value)) for name, value in event.headers.raw_items()]
        response = Response(event.status_code, b"", Headers(fields))
        known = self.request is not _SOME_REQUEST
        offered = self.offered_subprotocols if known else response.headers.get_all("Sec-WebSocket-Protocol")
        compression = self.offered_compression if known else True
        return examine_answer(
            response, self.accept, offered_subprotocols=offered, offered_compression=compression
        ).checks


class _Direction:
    """One direction of a connection: the bytes of one sender."""

    def __init__(self, sender: Role) -> None:
        self.sender = sender
        self.mode = _Mode.HEAD
        self.at = 0  # the offset of the buffer in the stream
        self.buffer = bytearray()
        self.searched = 0  # bytes of it that were searched for the end of a head
        self.http: HttpPhase | None = None  # of a request whose body is skipped
        self.answer: h11.Connection | None = None  # of a response that is being read
        self.frames: _Frames | None = None

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

    def lose(self, out: list[Seen], told: str) -> None:
        """Stop following this direction: its bytes can't be told from noise."""
        out.append(Rest(self.sender, self.at, bytes(self.buffer[:_MOST_SHOWN_BYTES]), told))
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

    def tell_fault(self, out: list[Seen]) -> None:
        """Add the incomplete frame, if its receiver has found a fault in it."""
        if self.frames is not None:
            self.frames.tell_fault(out)

    def finish(self, out: list[Seen]) -> None:
        if self.frames is not None:
            self.frames.finish(out)
        elif self.buffer and self.mode is not _Mode.LOST:
            out.append(Rest(self.sender, self.at, bytes(self.buffer[:_MOST_SHOWN_BYTES]), "the head ends here"))


class _Frames:
    """The frames of one direction, checked by the same code as in their receiver."""

    def __init__(self, sender: Role, at: int, compression: _Compression | None) -> None:
        self._sender = sender
        self.shown_bytes = 0
        self._at = at  # of the next byte
        self._frame_at = at
        self._raw = b""  # the frame's bytes so far
        self._scanner = FrameScanner()
        self._recorder: FrameRecorder | None = None
        # The view inflates and checks the inflated data; wsproto checks the rest.
        self._view = (
            MessageView(deflates=False)
            if compression is None
            else MessageView(deflates=True, keeps_context=compression.keeps_context, from_start=compression.from_start)
        )
        self._judge = PlainReader(sender.other, NO_LIMIT, [] if compression is None else [Unread()])
        self._judge.streams = True  # checked parts of a message are not needed any more
        self._fault: Fault | None = None
        self._told = False  # of a frame that is incomplete still
        self._ignored = False
        self._ignored_frames = 0

    def receive(self, data: bytes, out: list[Seen]) -> None:
        for start in range(0, len(data), _JUDGED_BYTES):
            piece = data[start : start + _JUDGED_BYTES]
            if self._ignored_frames <= _MOST_IGNORED_FRAMES:
                self._receive(piece, out)
            self._at += len(piece)

    def _receive(self, data: bytes, out: list[Seen]) -> None:
        position = 0
        scanner = self._scanner
        while position < len(data):
            start = position
            if self._recorder is None:
                if scanner.at_boundary:
                    self._begin_frame(position)
                    if self._ignored_frames > _MOST_IGNORED_FRAMES:
                        raw = data[position : position + _MOST_SHOWN_BYTES]
                        reason = "its receiver reads no more, and from here on nothing is looked at"
                        out.append(Rest(self._sender, self._frame_at, raw, reason))
                        return
                position = scanner.scan_header(data, position)
                taken = data[start:position]
                self._have_judged(taken)
                if scanner.header is not None:
                    # A frame with an invalid header belongs to no message.
                    view = None if self._judge.ended else self._view
                    self._recorder = FrameRecorder(scanner.header, self.shown_bytes, view)
            else:
                position = scanner.scan_payload(data, position)
                taken = data[start:position]
                self._have_judged(taken)
                self._recorder.add(taken)
                self._have_judged_content()
            self._raw = (self._raw + taken)[:_MOST_SHOWN_BYTES]
            if self._recorder is not None and not scanner.payload_left:
                frame = self._recorder.frame()
                self._have_judged_content()
                if self._fault is not None:
                    frame = replace(frame, message=None)
                if not self._told:
                    out.append(SeenFrame(self._sender, self._frame_at, frame, self._fault, self._ignored))
                self._forget_frame()

    def _begin_frame(self, position: int) -> None:
        self._frame_at = self._at + position
        self._ignored = self._judge.ended
        self._ignored_frames += self._ignored

    def _forget_frame(self) -> None:
        self._recorder = None
        self._raw = b""
        self._fault = None
        self._told = False

    def _have_judged(self, data: bytes) -> None:
        if self._judge.ended:
            return
        events: list[Event] = []
        self._judge.read(data, 0, events, None, until_idle=False)
        for event in events:
            if isinstance(event, Failed):
                self._fault = event.fault

    def _have_judged_content(self) -> None:
        """Stop at a fault that the view found in a compressed message."""
        if self._view.fault is not None and not self._judge.ended:
            self._fault = self._view.fault
            self._judge.ended = True

    def tell_fault(self, out: list[Seen]) -> None:
        """Add the incomplete frame if its receiver finds a fault in its first bytes and reads no more."""
        if self._fault is not None and not self._told:
            self._tell_incomplete(out, "so far")
            self._told = True

    def finish(self, out: list[Seen]) -> None:
        if self._raw and not self._told:
            self._tell_incomplete(out, "ends here")

    def _tell_incomplete(self, out: list[Seen], state: str) -> None:
        if self._ignored:
            reason = "its receiver reads no more, and the rest is not a whole frame"
        elif self._recorder is None:
            reason = f"the frame's header {state}"
        else:
            reason = f"the frame {state}: {self._scanner.payload_left:,} bytes of its payload are missing"
        out.append(Rest(self._sender, self._frame_at, self._raw, reason, self._fault))
