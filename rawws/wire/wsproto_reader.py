"""Frames read by wsproto, which is the one judge of all that a peer may get wrong.

`WsprotoReader` adds to wsproto's ``Connection`` what wsproto leaves to its users. It limits the size of a message, by
the length in a frame's header, before the payload is read. It has one buffer for an incomplete message, so that a
thousand fragments cost no more than their bytes. And it says whose fault the end was, since wsproto reports a frame
that it rejects as if the peer had sent a close.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import wsproto.events
from wsproto.connection import Connection, ConnectionState
from wsproto.extensions import Extension
from wsproto.frame_protocol import CloseReason

from rawws.errors import Fault
from rawws.wire.deflate import Inflater, Unread, most_deflated_bytes
from rawws.wire.events import CloseFrame, CloseReceived, Event, Failed, Message, MessagePart, PingReceived, PongReceived
from rawws.wire.frame_recorder import FrameRecorder
from rawws.wire.frames import CONTROL, MAX_CONTROL_PAYLOAD_BYTES, Frame, FrameHeader, FrameScanner, Opcode
from rawws.wire.message_view import INVALID_DEFLATE, TEXT_NOT_UTF8, MessageView
from rawws.wire.recent_frames import NO_FRAMES, push
from rawws.wire.role import Role


@dataclass(frozen=True, slots=True)
class _Rule:
    """One way in which wsproto rejects a frame; ``opening`` is the beginning of its message."""

    opening: str
    code: str
    section: str
    sentence: str = ""  # used if wsproto's message is unclear, or depends on how the bytes were split


_RULES = (
    _Rule("Invalid opcode", "invalid_opcode", "§5.2"),
    _Rule("Reserved bit set", "reserved_bit", "§5.2"),
    _Rule("Payload length used", "length_not_minimal", "§5.2"),
    _Rule("8-byte payload length", "length_too_large", "§5.2"),
    _Rule("server received unexpected unmasked", "not_masked", "§5.1"),
    _Rule("client received unexpected masked", "masked", "§5.1"),
    _Rule("expected CONTINUATION", "expected_continuation", "§5.4"),
    _Rule("unexpected CONTINUATION", "unexpected_continuation", "§5.4"),
    _Rule("Invalid attempt to fragment control", "control_fragmented", "§5.5"),
    _Rule("Control frame with payload", "control_too_long", "§5.5"),
    _Rule("CLOSE with 1 byte", "close_payload_short", "§5.5.1"),
    _Rule("CLOSE with", "close_code_invalid", "§7.4"),
    _Rule("remote CLOSE with local-only", "close_code_invalid", "§7.4"),
    _Rule("Error decoding CLOSE reason", "close_reason_not_utf8", "§5.5.1", "Reason of a close is not valid UTF-8"),
)
# Faults that a `MessageView` finds too, by the beginning of wsproto's message.
_FAULTS = {"error in extension": INVALID_DEFLATE, "'utf-8' codec": TEXT_NOT_UTF8}


def _name_fault(close_code: int, sentence: str) -> Fault:
    for opening, fault in _FAULTS.items():
        if sentence.startswith(opening):
            return fault
    for rule in _RULES:
        if sentence.startswith(rule.opening):
            return Fault(close_code, rule.code, f"{rule.sentence or sentence} (RFC 6455 {rule.section})")
    return Fault(close_code, "protocol_error", sentence)


# The memory of a reader, with its wsproto connection (measured).
READER_BYTES = 2600


class WsprotoReader:
    """Reads frames through wsproto from a frame boundary on."""

    __slots__ = (
        "_connection",
        "_in_message",
        "_inflaters",
        "_message",
        "_message_bytes",
        "_message_opcode",
        "_most_bytes",
        "_our_role",
        "_recorder",
        "_scanner",
        "_streams_message",
        "ended",
        "frames",
        "max_message_bytes",
        "recent_frames",
        "shown_bytes",
        "streams",
        "view",
    )

    def __init__(self, our_role: Role, max_message_bytes: int, inflaters: Sequence[Inflater | Unread] = ()) -> None:
        self.max_message_bytes = max_message_bytes
        self.recent_frames = NO_FRAMES
        self.frames = 0  # that have been read
        self.ended = False  # a close was read, or a fault found: nothing more is read
        self.shown_bytes = MAX_CONTROL_PAYLOAD_BYTES  # of a payload, to ``on_frame``
        self.view: MessageView | None = None  # of the peer's messages, while frames are shown
        self.streams = False  # messages that begin from now on come in parts
        self._our_role = our_role
        self._connection = Connection(our_role.value, list[Extension](inflaters))
        self._inflaters = inflaters
        self._scanner = FrameScanner()
        self._recorder: FrameRecorder | None = None
        self._in_message = False  # between the fragments of one
        self._message: bytearray | None = None  # the part of it that has come
        self._message_opcode = Opcode.BINARY
        self._streams_message = False  # it comes in parts, even if ``streams`` has changed since
        self._message_bytes = 0  # the bytes that its frames have announced so far
        self._most_bytes = max_message_bytes  # the bytes that they may announce

    @property
    def is_idle(self) -> bool:
        """Whether this is a frame boundary outside of a message, so that another reader could go on from here."""
        return self._scanner.at_boundary and not self._in_message and not self.ended

    @property
    def held_bytes(self) -> int:
        """The bytes of memory that an incomplete message takes."""
        return 0 if self._message is None else len(self._message)

    @property
    def own_bytes(self) -> int:
        """The bytes of memory of the reader itself, with the part that it keeps of a frame to be shown."""
        recorded = 0 if self._recorder is None else self._recorder.held_bytes
        return READER_BYTES + recorded + sum(inflater.held_bytes for inflater in self._inflaters)

    def read(
        self,
        data: bytes,
        start: int,
        events: list[Event],
        on_frame: Callable[[Role, Frame], None] | None,
        *,
        until_idle: bool,
        most_frames: float = math.inf,
    ) -> int:
        """Add the events of the data from ``start`` on to ``events``, and return where the reading stopped.

        It stops at the end of the data, after ``most_frames``, or with ``until_idle`` where the reader is first idle
        again. ``frames`` counts the frames.
        """
        most_frames += self.frames
        scanner = self._scanner
        position = start
        while position < len(data):
            if not scanner.payload_left:
                header_at = position
                position = scanner.scan_header(data, position)
                if scanner.header is None:
                    break
                if scanner.header.opcode == Opcode.CLOSE:
                    # The frames before are judged first. So if wsproto rejects a frame from here on, it is this one,
                    # which _end_with_1014() relies on.
                    self._feed_wsproto(data[start:header_at], events)
                    if self.ended:
                        return len(data)
                    start = header_at
                if fault := self._begin_frame(scanner.header, on_frame):
                    # wsproto sees the header too: if the frame is also illegal, that is the reported fault.
                    self._feed_wsproto(data[start:position], events)
                    if not self.ended:
                        self._fail(fault, events)
                    return len(data)
            payload_at = position
            position = scanner.scan_payload(data, payload_at)
            if self._recorder is not None:
                self._recorder.add(data[payload_at:position])
                if not scanner.payload_left:
                    self._end_recorded_frame(on_frame)
                    if self._recorder is not None:  # a close: accepted or not, it is the last frame that is read
                        break
            if not scanner.payload_left:
                self.frames += 1
                if self.frames >= most_frames:
                    break
            if until_idle and self.is_idle:
                break
        self._feed_wsproto(data[start:position] if start or position < len(data) else data, events)
        return position

    def _begin_frame(self, header: FrameHeader, on_frame: Callable[[Role, Frame], None] | None) -> Fault | None:
        """Record a header, and return the fault if it takes its message over the limit.

        Control frames, which may come between fragments, don't count.
        """
        self.recent_frames = push(self.recent_frames, header.raw[0], header.payload_bytes)
        if on_frame is not None or header.opcode == Opcode.CLOSE:
            self._recorder = FrameRecorder(header, self.shown_bytes, None if on_frame is None else self.view)
        if header.opcode & CONTROL:
            return None
        if not self._in_message or header.opcode != Opcode.CONTINUATION:
            self._message_bytes = 0
            # The limit of a compressed message is about the inflated bytes; the inflater counts them.
            limit = self.max_message_bytes
            self._most_bytes = most_deflated_bytes(limit) if header.rsv1 else limit
        self._in_message = not header.fin
        self._message_bytes += header.payload_bytes
        if self._message_bytes <= self._most_bytes:
            return None
        return self._too_big(self._message_bytes)

    def _end_recorded_frame(self, on_frame: Callable[[Role, Frame], None] | None) -> None:
        assert self._recorder is not None
        frame = self._recorder.frame()
        if on_frame is not None:
            on_frame(self._our_role.other, frame)
        if frame.header.opcode != Opcode.CLOSE:  # that one is kept for _end_with_1014()
            self._recorder = None

    def _feed_wsproto(self, data: bytes, events: list[Event]) -> None:
        self._connection.receive_data(data)
        for event in self._connection.events():
            match event:
                case wsproto.events.TextMessage(data=text):
                    self._add_to_message(Opcode.TEXT, text.encode(), event.message_finished, events)
                case wsproto.events.BytesMessage(data=binary):
                    self._add_to_message(Opcode.BINARY, bytes(binary), event.message_finished, events)
                case wsproto.events.Ping(payload=payload):
                    events.append(PingReceived(bytes(payload)))
                case wsproto.events.Pong(payload=payload):
                    events.append(PongReceived(bytes(payload)))
                case _:
                    assert isinstance(event, wsproto.events.CloseConnection)
                    self._end(int(event.code), event.reason or "", events)
            if self.ended:
                return

    def _add_to_message(self, opcode: Opcode, payload: bytes, finished: bool, events: list[Event]) -> None:
        if self._message is None and not self._streams_message:
            self._streams_message = self.streams
        if self._streams_message:
            if payload or finished:
                events.append(MessagePart(opcode, payload, finished))
            self._streams_message = not finished
            return
        if self._message is None:
            if finished:
                events.append(Message(opcode, payload))
            elif payload:
                self._message_opcode = opcode
                self._message = bytearray(payload)
            return
        self._message += payload
        if finished:
            events.append(Message(opcode, self._message))
            self._message = None

    def begin_streaming(self, events: list[Event]) -> None:
        """Report messages in parts from now on. The part that has come of the present one is reported at once."""
        self.streams = True
        if self._message is not None:
            events.append(MessagePart(self._message_opcode, bytes(self._message), False))
            self._message = None
            self._streams_message = True

    def _end(self, code: int, reason: str, events: list[Event]) -> None:
        # wsproto changes its state for a close that the peer sent, and keeps it for a frame that it rejects.
        if self._connection.state in (ConnectionState.REMOTE_CLOSING, ConnectionState.CLOSED):
            self.ended = True
            events.append(CloseReceived(CloseFrame(code, reason)))
        elif code == CloseReason.MESSAGE_TOO_BIG:
            self._fail(self._too_big(self.max_message_bytes + 1), events)
        else:
            fault = _name_fault(code, reason)
            if fault.code == "close_code_invalid":
                self._end_with_1014(fault, events)
            else:
                self._fail(fault, events)

    def _end_with_1014(self, fault: Fault, events: list[Event]) -> None:
        """Accept the close whose code was just rejected, if that code is 1014 and the reason is valid.

        1014 entered the IANA registry after wsproto's table was written, and servers behind gateways send it. wsproto
        checks a close's code after everything else but its reason, so the rest of the frame is valid.
        """
        assert self._recorder is not None
        payload = self._recorder.frame().payload_head
        if payload[:2] != (1014).to_bytes(2, "big"):
            self._fail(fault, events)
            return
        try:
            close = CloseFrame(1014, payload[2:].decode())
        except UnicodeDecodeError:
            self._fail(_name_fault(CloseReason.INVALID_FRAME_PAYLOAD_DATA, "Error decoding CLOSE reason"), events)
            return
        self.ended = True
        events.append(CloseReceived(close))

    def _too_big(self, size: int) -> Fault:
        us = self._our_role.label
        sentence = f"message of {size} bytes or more is over the {us}'s limit of {self.max_message_bytes} (max_size)"
        return Fault(CloseReason.MESSAGE_TOO_BIG, "message_too_big", sentence)

    def _fail(self, fault: Fault, events: list[Event]) -> None:
        self.ended = True
        self._message = None
        events.append(Failed(fault))


class WsprotoEncoder:
    """Writes frames through wsproto, where the fast reader is switched off.

    Its ``Connection`` only sends, and must not know how far the closing handshake has come: our close may have to wait
    for messages that are encoded after it. So a close has a ``Connection`` of its own.
    """

    def __init__(self, our_role: Role) -> None:
        self._our_role = our_role
        self._connection = Connection(our_role.value)

    def encode(self, opcode: Opcode, payload: bytes | bytearray) -> bytes:
        """Return the bytes of one unfragmented frame with a legal payload."""
        event: wsproto.events.Event
        match opcode:
            case Opcode.TEXT:
                event = wsproto.events.TextMessage(data=payload.decode())
            case Opcode.PING:
                event = wsproto.events.Ping(payload=bytes(payload))
            case Opcode.PONG:
                event = wsproto.events.Pong(payload=bytes(payload))
            case Opcode.CLOSE if payload:
                event = wsproto.events.CloseConnection(
                    code=int.from_bytes(payload[:2], "big"), reason=payload[2:].decode()
                )
            case Opcode.CLOSE:
                event = wsproto.events.CloseConnection(code=CloseReason.NO_STATUS_RCVD)
            case _:
                event = wsproto.events.BytesMessage(data=payload)
        connection = Connection(self._our_role.value) if opcode is Opcode.CLOSE else self._connection
        return bytes(connection.send(event))
