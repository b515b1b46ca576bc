"""One WebSocket connection after its handshake: messages, control frames, close (RFC 6455 §5 to §7).

wsproto's ``Connection`` reads the frames and judges them. Around it, a `Session` adds what wsproto leaves to
its users:

* a limit on the size of a message, applied to the length in a frame's header before the payload is taken in;
* one buffer for a message in the making, so that a thousand fragments cost no more than their bytes;
* the answers that the RFC asks for: a pong to a ping, a close to a close, a close before we give up;
* whose fault the end was. wsproto reports a frame that it rejects as if the peer had sent a close; the two
  differ only in wsproto's state, and are told apart here, once.

Feed it with `Session.receive_data`, act on the events that it returns, and send what
`Session.data_to_send` has collected, in order and at a frame boundary.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple

import wsproto.events
from wsproto.connection import Connection, ConnectionState, ConnectionType
from wsproto.frame_protocol import CloseReason

from rawws.errors import Fault
from rawws.wire.frames import CONTROL, MAX_CONTROL_PAYLOAD_BYTES, Frame, FrameHeader, FrameScanner, Opcode, split_frames
from rawws.wire.trace import FrameRecorder


class Role(Enum):
    CLIENT = ConnectionType.CLIENT
    SERVER = ConnectionType.SERVER

    @property
    def other(self) -> Role:
        return Role.SERVER if self is Role.CLIENT else Role.CLIENT


class State(Enum):
    OPEN = "open"
    CLOSING = "closing"  # our close is sent, the peer's has not come
    CLOSED = "closed"  # both closes have crossed, or we failed the connection: nothing more is read


# §7.4.1 and the registry it set up (https://www.iana.org/assignments/websocket).
CLOSE_CODE_NAMES = {
    1000: "normal closure",
    1001: "going away",
    1002: "protocol error",
    1003: "unsupported data",
    1005: "no status received",
    1006: "abnormal closure",
    1007: "invalid frame payload data",
    1008: "policy violation",
    1009: "message too big",
    1010: "mandatory extension",
    1011: "internal error",
    1012: "service restart",
    1013: "try again later",
    1014: "bad gateway",
    1015: "TLS handshake",
}


class CloseFrame(NamedTuple):
    """A close as it was sent or received; code 1005 stands for a close without a status (§7.1.5)."""

    code: int
    reason: str

    def __str__(self) -> str:
        name = CLOSE_CODE_NAMES.get(self.code)
        text = str(self.code) if name is None else f"{self.code} ({name})"
        return f"{text} {self.reason!r}" if self.reason else text


class Message(NamedTuple):
    """A whole data message. ``opcode`` is TEXT or BINARY; a text's payload is valid UTF-8."""

    opcode: Opcode
    payload: bytes


class PingReceived(NamedTuple):
    """A ping; its pong is already in `Session.data_to_send`."""

    payload: bytes


class PongReceived(NamedTuple):
    payload: bytes


class CloseReceived(NamedTuple):
    """The peer's close. If it was the first, our answer is in `Session.data_to_send`."""

    close: CloseFrame


class Failed(NamedTuple):
    """We failed the connection (§7.1.7); our close is in `Session.data_to_send`."""

    fault: Fault


Event = Message | PingReceived | PongReceived | CloseReceived | Failed


@dataclass(frozen=True, slots=True)
class _Rule:
    """Names one way in which wsproto rejects a frame; ``opening`` is how its sentence begins."""

    opening: str
    code: str
    section: str
    sentence: str = ""  # in place of wsproto's, which tells positions in whatever chunk it was given


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
    _Rule("'utf-8' codec", "text_not_utf8", "§8.1", "Text is not valid UTF-8"),
)


class Session:
    """A WebSocket connection in the open state and on to its end, for either role.

    ``on_frame(sender, frame)``, while set, is shown every frame that comes in, and those that go out when
    `show_sent` is told; payloads are collected for it only then.
    """

    __slots__ = (
        "_message",
        "_message_bytes",
        "_outgoing",
        "_recorder",
        "_scanner",
        "_wsproto",
        "close_begun_by",
        "close_rcvd",
        "close_sent",
        "fault",
        "max_message_bytes",
        "on_frame",
        "our_role",
        "state",
    )

    def __init__(
        self,
        our_role: Role,
        *,
        max_message_bytes: int,
        on_frame: Callable[[Role, Frame], None] | None = None,
    ) -> None:
        self.our_role = our_role
        self.max_message_bytes = max_message_bytes
        self.on_frame = on_frame
        self.state = State.OPEN
        self.close_rcvd: CloseFrame | None = None
        self.close_sent: CloseFrame | None = None
        self.close_begun_by: Role | None = None  # who sent the first close
        self.fault: Fault | None = None
        self._wsproto = Connection(our_role.value)
        self._scanner = FrameScanner()
        self._recorder: FrameRecorder | None = None
        self._message: bytearray | None = None  # of a message in the making
        self._message_bytes = 0  # that its frames have announced so far
        self._outgoing = bytearray()

    def __repr__(self) -> str:
        return (
            f"<Session {self.our_role.name} {self.state.value} close_sent={self.close_sent} "
            f"close_rcvd={self.close_rcvd} fault={self.fault and self.fault.code}>"
        )

    @property
    def is_closed(self) -> bool:
        """Whether both closes have crossed, or we failed the connection."""
        return self.state is State.CLOSED

    def describe_end(self) -> str:
        """Return who ended the connection, with which code, and why, as far as it went."""
        them = f"the {self.our_role.other.name.lower()}"
        if self.fault is not None:
            if self.close_sent is not None and self.close_sent.reason != self.fault.sentence:
                # Our close had gone out before, for another reason.
                return f"closed by us with {self.close_sent}, then failed: {self.fault.sentence}"
            return f"failed by us with {self.close_sent}"
        if self.close_begun_by is self.our_role:
            answer = f"answered with {self.close_rcvd}" if self.close_rcvd else "with no close in answer"
            return f"closed by us with {self.close_sent}, {answer}"
        if self.close_rcvd is not None:
            return f"closed by {them} with {self.close_rcvd}"
        return "lost without a close (1006)"

    # What comes in

    def receive_data(self, data: bytes) -> list[Event]:
        """Take in bytes from the peer and return what they amount to, in order.

        Never raises for what a peer sends. Once the state is CLOSED, data is ignored (§5.5.1).
        """
        events: list[Event] = []
        if self.is_closed:
            return events
        scanner = self._scanner
        position = 0
        while position < len(data):
            if not scanner.payload_left:
                header_at = position
                position = scanner.scan_header(data, position)
                if scanner.header is None:
                    break
                if scanner.header.opcode == Opcode.CLOSE:
                    # What stands in front is judged first, so that the next verdict is on this close alone.
                    self._feed_wsproto(data[:header_at], events)
                    if self.is_closed:
                        return events
                    data = data[header_at:]
                    position -= header_at
                if fault := self._begin_frame(scanner.header):
                    # wsproto sees the header too: if the frame is illegal besides, that is the answer.
                    self._feed_wsproto(data[:position], events)
                    if not self.is_closed:
                        self._fail(fault, events)
                    return events
            start = position
            position = scanner.scan_payload(data, start)
            if self._recorder is not None:
                self._recorder.add(data[start:position])
                if not scanner.payload_left and self._end_recorded_frame() == Opcode.CLOSE:
                    data = data[:position]  # §5.5.1: nothing behind a close is read, or shown
        self._feed_wsproto(data, events)
        return events

    def _begin_frame(self, header: FrameHeader) -> Fault | None:
        """Note a header, and return the fault if it takes its message over the limit.

        Control frames, which may come between fragments, never touch the count.
        """
        if self.on_frame is not None or header.opcode == Opcode.CLOSE:
            self._recorder = FrameRecorder(header)
        if header.opcode & CONTROL:
            return None
        if header.opcode != Opcode.CONTINUATION:
            self._message_bytes = 0
        self._message_bytes += header.payload_bytes
        if self._message_bytes <= self.max_message_bytes:
            return None
        return Fault(
            CloseReason.MESSAGE_TOO_BIG,
            "message_too_big",
            f"message of {self._message_bytes} bytes or more is over the limit of {self.max_message_bytes}",
        )

    def _end_recorded_frame(self) -> int:
        assert self._recorder is not None
        frame = self._recorder.frame()
        if self.on_frame is not None:
            self.on_frame(self.our_role.other, frame)
        if frame.header.opcode != Opcode.CLOSE:  # that one is kept for _close_with_1014()
            self._recorder = None
        return frame.header.opcode

    def _feed_wsproto(self, data: bytes, events: list[Event]) -> None:
        self._wsproto.receive_data(data)
        for event in self._wsproto.events():
            match event:
                case wsproto.events.TextMessage(data=text):
                    self._add_to_message(Opcode.TEXT, text.encode(), event.message_finished, events)
                case wsproto.events.BytesMessage(data=binary):
                    self._add_to_message(Opcode.BINARY, bytes(binary), event.message_finished, events)
                case wsproto.events.Ping(payload=payload):
                    # §5.5.2: answer, unless our close has gone out already (§5.5.1: nothing follows it).
                    if self.state is State.OPEN:
                        self._send(wsproto.events.Pong(payload=bytes(payload)))
                    events.append(PingReceived(bytes(payload)))
                case wsproto.events.Pong(payload=payload):
                    events.append(PongReceived(bytes(payload)))
                case wsproto.events.CloseConnection(code=code, reason=reason):
                    self._receive_close(int(code), reason or "", events)
            if self.is_closed:
                return

    def _add_to_message(self, opcode: Opcode, payload: bytes, finished: bool, events: list[Event]) -> None:
        if self._message is None:
            if finished:
                events.append(Message(opcode, payload))
            elif payload:
                self._message = bytearray(payload)
            return
        self._message += payload
        if finished:
            events.append(Message(opcode, bytes(self._message)))
            self._message = None

    def _receive_close(self, code: int, reason: str, events: list[Event]) -> None:
        accepted = self._wsproto.state in (ConnectionState.REMOTE_CLOSING, ConnectionState.CLOSED)
        if accepted or (newer := self._close_with_1014()) is None:
            close = CloseFrame(code, reason)
        else:
            accepted, close = True, newer
        if not accepted:
            self._fail(_name_fault(code, reason), events)
            return
        self.close_rcvd = close
        if self.close_sent is None:
            self.close_begun_by = self.our_role.other
            self._send_close(close)  # §5.5.1: answer a close with a close, typically with the same code
        self.state = State.CLOSED
        events.append(CloseReceived(close))

    def _close_with_1014(self) -> CloseFrame | None:
        """Return the close in the frame just rejected, if the one thing wrong with it is code 1014.

        1014 entered the IANA registry after wsproto's table was written; servers behind gateways send it.
        """
        if self._recorder is None:
            return None
        frame = self._recorder.frame()
        header = frame.header
        if frame.left_out_bytes or not header.fin or header.rsv1 or header.rsv2 or header.rsv3:
            return None
        payload = frame.payload_head
        if payload[:2] != (1014).to_bytes(2, "big") or (header.mask_key is None) is (self.our_role is Role.SERVER):
            return None
        try:
            return CloseFrame(1014, payload[2:].decode())
        except UnicodeDecodeError:
            return None

    def _fail(self, fault: Fault, events: list[Event]) -> None:
        """§7.1.7, *Fail the WebSocket Connection*: a close that says why, and nothing more is read."""
        self.fault = fault
        self._message = None
        if self.close_sent is None:
            self._send_close(CloseFrame(fault.close_code, fault.sentence))
        self.state = State.CLOSED
        events.append(Failed(fault))

    # What goes out

    def ping(self, payload: bytes = b"") -> None:
        """Queue a ping; ``payload`` is at most 125 bytes. Only while the state is OPEN."""
        self._send(wsproto.events.Ping(payload=payload))

    def close(self, code: int = 1000, reason: str = "") -> None:
        """Queue our close and begin the closing handshake (§7.1.2). Does nothing if one was sent before.

        A reason is cut to the 123 bytes of UTF-8 that a close frame holds.
        """
        if self.close_sent is None:
            self._send_close(CloseFrame(code, reason))
            self.state = State.CLOSING

    def data_to_send(self) -> bytes:
        """Return, once, the bytes queued for the peer: whole frames, to be sent at a frame boundary."""
        data = bytes(self._outgoing)
        self._outgoing.clear()
        return data

    def _send_close(self, close: CloseFrame) -> None:
        # §5.5: a control frame holds 125 bytes, two of which are the code.
        reason = close.reason.encode()[: MAX_CONTROL_PAYLOAD_BYTES - 2].decode(errors="ignore")
        close = CloseFrame(close.code, reason)
        self.close_sent = close
        self.close_begun_by = self.close_begun_by or self.our_role
        if close.code == CloseReason.NO_STATUS_RCVD:
            self._send(wsproto.events.CloseConnection(code=CloseReason.NO_STATUS_RCVD))
        else:
            self._send(wsproto.events.CloseConnection(code=close.code, reason=close.reason))

    def _send(self, event: wsproto.events.Event) -> None:
        self._outgoing += self._wsproto.send(event)

    def show_sent(self, data: bytes | bytearray) -> None:
        """Show ``on_frame`` the frames in data that goes out, whether this session made them or a broadcast.

        It is for the caller to say so, who alone knows when they really go.
        """
        if self.on_frame is None:
            return
        for header, payload in split_frames(data):
            recorder = FrameRecorder(header)
            recorder.add(payload)
            self.on_frame(self.our_role, recorder.frame())


def _name_fault(close_code: int, sentence: str) -> Fault:
    for rule in _RULES:
        if sentence.startswith(rule.opening):
            return Fault(close_code, rule.code, f"{rule.sentence or sentence} (RFC 6455 {rule.section})")
    return Fault(close_code, "protocol_error", sentence)
