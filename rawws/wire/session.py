"""One WebSocket connection after its handshake: messages, control frames, close (RFC 6455 §5 to §7).

Frames are read by two lanes with equivalent results: `FastReader` takes whole, plain frames, and `PlainReader`, which
is wsproto, takes everything else. A `Session` uses both. It knows the state of the closing handshake, and gives the
answers that the RFC requires: a pong to a ping, a close to a close, a close before we fail the connection.

Feed it with `Session.receive_data`, act on the events that it returns, and send what
`Session.data_to_send` has collected, in order and at a frame boundary. A server that only passes messages on
uses `Session.relay_data` instead, which returns them as frames. Messages to send are encoded with
`Session.message`, or with `Session.fragment` if a message isn't known as a whole.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from enum import Enum
from typing import Any

from wsproto.frame_protocol import CloseReason

from rawws.errors import Fault
from rawws.wire.deflate import MIN_DEFLATE_BYTES, Deflater, Inflater
from rawws.wire.events import CloseFrame, CloseReceived, Event, Failed, Message, MessagePart, PingReceived
from rawws.wire.fastlane import INFLATED_BYTES_EACH, FastReader
from rawws.wire.frames import (
    MAX_CONTROL_PAYLOAD_BYTES,
    RSV1,
    Frame,
    Opcode,
    encode_frame,
    encode_message,
    split_frames,
)
from rawws.wire.message_view import MessageView
from rawws.wire.plain import PlainEncoder, PlainReader
from rawws.wire.role import Role
from rawws.wire.trace import FrameRecorder
from rawws.wire.trail import NO_TRAIL, Trail


class State(Enum):
    OPEN = "open"
    CLOSING = "closing"  # our close is sent, the peer's has not come
    CLOSED = "closed"  # both closes have crossed, or we failed the connection: nothing more is read


CLOSED = State.CLOSED  # a global is found three times as fast as an Enum's member


# wsproto takes as long for one frame as the fast lane for this many.
PLAIN_FRAME_WORK = 4


class Session:
    """A WebSocket connection from its open state to its end, for either role.

    ``deflate`` says that permessage-deflate was agreed on, so that compressed messages are accepted; with
    ``takeover`` the peer's messages may refer to its earlier ones (RFC 7692 §7.1.1). ``deflater``, if there is one,
    compresses messages that `message` encodes. ``fast_lane=False`` reads and writes every frame through wsproto, for
    study; nothing else differs. With ``relays``, `relay_data` returns messages as frames, in place of `receive_data`.
    With ``echoes`` these go back to the peer, and pongs are returned among them in their order.

    While ``on_frame(sender, frame)`` is set, it is called for every received frame, and by `show_sent` for sent ones.
    Frames take the plain lane then, and ``shown_bytes`` of each payload are collected for it.
    """

    answers_pings = True  # §5.5.2: the peer must

    __slots__ = (
        "_deflater",
        "_echoes",
        "_encoder",
        "_fast",
        "_inflater",
        "_inflates",
        "_plain",
        "_relays",
        "_streams",
        "_unread",
        "_views",
        "close_begun_by",
        "close_rcvd",
        "close_sent",
        "fault",
        "max_message_bytes",
        "on_frame",
        "our_role",
        "outgoing",
        "shown_bytes",
        "state",
    )

    def __init__(
        self,
        our_role: Role,
        *,
        max_message_bytes: int,
        deflate: bool = False,
        takeover: bool = False,
        deflater: Deflater | None = None,
        fast_lane: bool = True,
        relays: bool = False,
        echoes: bool = False,
        on_frame: Callable[[Role, Frame], None] | None = None,
    ) -> None:
        self.our_role = our_role
        self.max_message_bytes = max_message_bytes
        self.on_frame: Callable[[Role, Frame], None] | None = None
        self.shown_bytes = MAX_CONTROL_PAYLOAD_BYTES
        self._views: dict[Role, MessageView] | None = None  # of each side's messages, while frames are shown
        self.state = State.OPEN
        self.close_rcvd: CloseFrame | None = None
        self.close_sent: CloseFrame | None = None
        self.close_begun_by: Role | None = None  # the sender of the first close
        self.fault: Fault | None = None
        self._inflates = deflate
        # One inflater for all messages if they share a context; otherwise a new one each time that wsproto reads.
        self._inflater = Inflater(max_message_bytes, takeover=True) if takeover else None
        self._deflater = deflater
        self._relays = relays
        self._echoes = echoes
        self._streams = False
        inflates = deflate and not takeover
        # If messages go back to the peer, a pong has its place between two of them.
        in_order = relays and echoes
        self._fast = (
            FastReader(our_role, max_message_bytes, inflates=inflates, relays=relays, takes_pings=not in_order)
            if fast_lane
            else None
        )
        self._encoder = None if fast_lane else PlainEncoder(our_role)
        # Made for a frame that needs it, and with a fast lane dropped after that frame, since it takes 2 KiB.
        self._plain: PlainReader | None = None
        self._unread = b""  # received bytes beyond the number of events that was asked for
        self.outgoing = b""  # for `data_to_send`
        if on_frame is not None:
            self.watch(on_frame)

    def __repr__(self) -> str:
        return (
            f"<Session {self.our_role.name} {self.state.value} close_sent={self.close_sent} "
            f"close_rcvd={self.close_rcvd} fault={self.fault and self.fault.code}>"
        )

    @property
    def trail(self) -> Trail:
        """The last frames that were received."""
        if self._plain is not None:
            return self._plain.trail
        return NO_TRAIL if self._fast is None else self._fast.trail

    @property
    def held_bytes(self) -> int:
        """The bytes of memory of an incomplete message."""
        fast = 0 if self._fast is None else self._fast.held_bytes
        return len(self._unread) + fast + (0 if self._plain is None else self._plain.held_bytes)

    @property
    def memory_bytes(self) -> int:
        """The bytes of memory by which it has grown since it was made: `held_bytes`, frame reader, unsent answers."""
        fast, plain = self._fast, self._plain
        if plain is None and fast is not None and fast.is_idle and self._inflater is None and self._views is None:
            return len(self._unread) + len(self.outgoing)  # nearly always; this is asked of every connection
        own = self.held_bytes + len(self.outgoing) + (0 if fast is None else fast.own_bytes)
        if self._views is not None:
            own += sum(view.held_bytes for view in self._views.values())
        if plain is not None:
            return own + plain.own_bytes
        return own if self._inflater is None else own + self._inflater.held_bytes

    @property
    def is_closed(self) -> bool:
        """Whether both closes have crossed, or we failed the connection."""
        return self.state is State.CLOSED

    def describe_end(self) -> str:
        """Return a phrase that says which side ended the connection, with which codes and reasons."""
        them = f"the {self.our_role.other.name.lower()}"
        if self.fault is not None:
            if self.close_sent is not None and self.close_sent.code != self.fault.close_code:
                # Our close had gone out before, for another reason.
                return f"closed by us with {self.close_sent}, then failed: {self.fault.sentence}"
            return f"failed by us with {self.close_sent}"
        if self.close_begun_by is self.our_role:
            answer = f"answered with {self.close_rcvd}" if self.close_rcvd else "with no close in answer"
            return f"closed by us with {self.close_sent}, {answer}"
        if self.close_rcvd is not None:
            return f"closed by {them} with {self.close_rcvd}"
        return "lost without a close (1006)"

    def watch(
        self, on_frame: Callable[[Role, Frame], None] | None, shown_bytes: int = MAX_CONTROL_PAYLOAD_BYTES
    ) -> None:
        """Pass every frame to ``on_frame`` from now on, with the message that ends with it. None stops that."""
        self.on_frame = on_frame
        self.shown_bytes = shown_bytes
        if on_frame is None:
            self._views = None  # a view would miss frames that later messages refer to
        elif self._views is None:
            inflater = self._inflater
            self._views = {
                self.our_role: MessageView(deflates=self._inflates),
                self.our_role.other: MessageView(
                    deflates=self._inflates,
                    keeps_context=inflater is not None,
                    from_start=inflater is None or inflater.is_fresh,
                ),
            }
        if self._plain is not None:
            self._plain.view = self._view_of(self.our_role.other)

    def _view_of(self, sender: Role) -> MessageView | None:
        return None if self._views is None else self._views[sender]

    # Input

    @property
    def has_unread(self) -> bool:
        """Whether received bytes are left for the next call, which may be without data."""
        return bool(self._unread)

    def receive_data(self, data: bytes, most: float = math.inf) -> list[Event]:
        """Process bytes from the peer, and return their events in order.

        A KiB may contain a hundred messages, or inflate to a MiB of them. So ``most`` is about the number of events to
        return. Each inflated KiB counts as one too, and each frame that wsproto reads as `PLAIN_FRAME_WORK`, since it
        takes longer.

        Never raises for what a peer sends. Once the state is CLOSED, data is ignored (§5.5.1).
        """
        events: list[Event] = []
        self._receive(data, events, most)
        return events

    def relay_data(self, data: bytes, most: float = math.inf) -> list[bytes | bytearray]:
        """Process bytes from the peer, and return its messages as the frames in which a server passes them on.

        The session must have ``relays``. A frame may be in two pieces, one after the other. Control frames are
        answered as usual, and not returned. ``most`` is as for `receive_data`.
        """
        frames: list[bytes | bytearray] = []
        self._receive(data, frames, most)
        return frames

    def large_buffer(self, least_bytes: int = 1) -> memoryview | None:
        """Return a buffer to receive the rest of a large message into; None if no such message is incomplete.

        Also returns None if fewer than ``least_bytes`` are missing. Release the buffer, then call `received`.
        """
        return None if self._fast is None else self._fast.large_buffer(least_bytes)

    def received(self, size: int) -> list[Any]:
        """Process bytes in the `large_buffer`; returns what `receive_data` or `relay_data` does."""
        assert self._fast is not None
        out: list[Any] = []
        rest = self._fast.received(size, out)
        if rest is not None:
            self._receive_slowly(rest, out, math.inf)
        return out

    def begin_streaming(self) -> list[Event]:
        """Return messages in parts from now on; returns the part of the present one that was received."""
        events: list[Event] = []
        self._streams = True
        if self._plain is not None:
            self._plain.begin_streaming(events)
        if self._fast is not None and not self._fast.is_idle:
            self._receive_slowly(self._fast.give_up(), events, math.inf)
        return events

    def end_streaming(self) -> None:
        """Return whole messages again, from the next one on."""
        self._streams = False
        if self._plain is not None:
            self._plain.streams = False

    def _receive(self, data: bytes, out: list[Any], most: float) -> None:
        if self._unread:
            data, self._unread = self._unread + data, b""
        fast = self._fast
        if (
            fast is not None
            and self._plain is None
            and self.state is not CLOSED
            and not self._streams
            and (self.on_frame is None or not fast.is_idle)  # the fast lane ends a frame that it has begun
        ):
            rest = fast.read(data, out, most)  # nearly always, nothing else is to be done
            if fast.pings is not None:
                self._answer_pings(fast)
            if rest is None:
                if fast.unread:
                    self._unread, fast.unread = fast.unread, b""
                return
            data = rest
            most -= len(out)
        self._receive_slowly(data, out, most)

    def _receive_slowly(self, data: bytes, out: list[Any], most: float) -> None:
        """Alternate between the lanes. If the fast lane has read already, ``data`` is what it left."""
        spare: PlainReader | None = None  # for the next turn: a new one costs as much as three small frames
        while data and self.state is not CLOSED:
            if most <= 0:
                self._unread = data
                return
            if self._plain is None:
                spare = spare or self._make_plain()
                spare.trail = self.trail
                self._plain = spare
            spare = self._plain
            data, work = self._read_plainly(spare, data, out, most)
            most -= work
            if data and self._fast is not None and self._plain is None and self._takes_turns and most > 0:
                told_before = len(out)
                rest = self._fast.read(data, out, told_before + most)
                self._answer_pings(self._fast)
                if rest is None:
                    self._unread, self._fast.unread = self._fast.unread, b""
                    break
                data = rest
                most -= len(out) - told_before

    @property
    def _takes_turns(self) -> bool:
        """Whether the fast lane reads whenever the plain one is idle."""
        return self.on_frame is None and not self._streams

    def _answer_pings(self, fast: FastReader) -> None:
        """Answer the pings that the fast lane has read."""
        pings, fast.pings = fast.pings, None
        if pings and self.state is State.OPEN:
            key = self._mask_key
            self.outgoing += b"".join([encode_frame(Opcode.PONG, payload, mask_key=key()) for payload in pings])

    def _read_plainly(self, plain: PlainReader, data: bytes, out: list[Any], most: float) -> tuple[bytes, int]:
        """Have wsproto read; if there is a fast lane, only up to where that can continue.

        Returns the unread data, and the number of events that count toward ``most``.
        """
        events: list[Event] = []
        work = -plain.frames
        # If the number of events is limited, one message at a time: the next one may inflate to any size.
        until_idle = (self._fast is not None and self._takes_turns) or most < math.inf
        most_frames = math.ceil(most / PLAIN_FRAME_WORK) if most < math.inf else most
        position = plain.read(data, 0, events, self.on_frame, until_idle=until_idle, most_frames=most_frames)
        work = (work + plain.frames) * PLAIN_FRAME_WORK
        for event in events:
            self._answer(event)
            if isinstance(event, (Message, MessagePart)):
                work += len(event.payload) // INFLATED_BYTES_EACH
            if not self._relays:
                out.append(event)
            elif isinstance(event, Message):
                self._encode(event.opcode, event.payload, out)
            elif self._echoes and isinstance(event, PingReceived) and self.outgoing:
                out.append(self.data_to_send())
        if self._fast is not None and plain.is_idle:
            self._fast.trail = plain.trail
            self._plain = None
        return data[position:], work

    def _encode(self, opcode: Opcode, payload: bytes | bytearray, frames: list[bytes | bytearray]) -> None:
        if self._encoder is None:
            encode_message(opcode, payload, frames)
        else:
            frames.append(self._encoder.encode(opcode, payload))

    def _make_plain(self) -> PlainReader:
        inflaters = [self._inflater or Inflater(self.max_message_bytes)] if self._inflates else []
        plain = PlainReader(self.our_role, self.max_message_bytes, inflaters)
        plain.streams = self._streams
        plain.shown_bytes = self.shown_bytes
        plain.view = self._view_of(self.our_role.other)
        return plain

    def _answer(self, event: Event) -> None:
        match event:
            case PingReceived(payload):
                # §5.5.2: answer, unless our close has gone out already (§5.5.1: nothing follows it).
                if self.state is State.OPEN:
                    self._send(Opcode.PONG, payload)
            case CloseReceived(close):
                self.close_rcvd = close
                if self.close_sent is None:
                    self.close_begun_by = self.our_role.other
                    self._send_close(close)  # §5.5.1: answer a close with a close, typically with the same code
                self.state = State.CLOSED
            case Failed(fault):
                # §7.1.7, *Fail the WebSocket Connection*: a close that says why, and nothing more is read.
                self.fault = fault
                if self.close_sent is None:
                    self._send_close(CloseFrame(fault.close_code, fault.sentence))
                self.state = State.CLOSED
            case _:
                pass

    # Output

    def message(self, opcode: Opcode, payload: bytes, *, compress: bool | None = None) -> bytes:
        """Return the frame of a whole message, for the caller to send; a text's payload is UTF-8.

        If compression was agreed on, ``compress`` says whether to use it; None leaves that to the message's size.
        """
        if self._deflater is not None and (compress or (compress is None and len(payload) >= MIN_DEFLATE_BYTES)):
            deflated = self._deflater.deflate(payload)
            if compress or len(deflated) < len(payload):
                return encode_frame(opcode, deflated, rsv=RSV1, mask_key=self._mask_key())
        if self._encoder is not None:
            return self._encoder.encode(opcode, payload)
        return encode_frame(opcode, payload, mask_key=self._mask_key())

    def fragment(self, opcode: Opcode, payload: bytes, *, final: bool, rsv: int = 0) -> bytes:
        """Return one frame of a message in several (§5.4), the first with its opcode, the rest CONTINUATION."""
        return encode_frame(opcode, payload, fin=final, rsv=rsv, mask_key=self._mask_key())

    def _mask_key(self) -> bytes | None:
        """§5.3: a client masks each frame with a key of its own, from a strong source."""
        return os.urandom(4) if self.our_role is Role.CLIENT else None

    def ping(self, payload: bytes = b"") -> None:
        """Queue a ping; ``payload`` is at most 125 bytes. Only while the state is OPEN."""
        self._send(Opcode.PING, payload)

    def pong(self, payload: bytes = b"") -> None:
        """Queue an unsolicited pong (§5.5.3). Only while the state is OPEN."""
        self._send(Opcode.PONG, payload)

    def close(self, code: int = 1000, reason: str = "") -> None:
        """Queue our close and begin the closing handshake (§7.1.2). Does nothing if one was sent before.

        A reason is cut to the 123 bytes of UTF-8 that a close frame holds.
        """
        if self.close_sent is None:
            self._send_close(CloseFrame(code, reason))
            self.state = State.CLOSING

    def data_to_send(self) -> bytes:
        """Return, once, the bytes queued for the peer: whole frames, to be sent at a frame boundary."""
        data = self.outgoing
        self.outgoing = b""
        return data

    def _send_close(self, close: CloseFrame) -> None:
        # §5.5: a control frame holds 125 bytes, two of which are the code. "ignore", because the cut may have
        # gone through a character.
        reason = close.reason.encode()[: MAX_CONTROL_PAYLOAD_BYTES - 2].decode(errors="ignore")
        self.close_sent = CloseFrame(close.code, reason)
        self.close_begun_by = self.close_begun_by or self.our_role
        if close.code == CloseReason.NO_STATUS_RCVD:
            self._send(Opcode.CLOSE, b"")
        else:
            self._send(Opcode.CLOSE, close.code.to_bytes(2, "big") + reason.encode())

    def _send(self, opcode: Opcode, payload: bytes) -> None:
        if self._encoder is not None:
            self.outgoing += self._encoder.encode(opcode, payload)
        else:
            self.outgoing += encode_frame(opcode, payload, mask_key=self._mask_key())

    def show_sent(self, data: bytes | bytearray) -> None:
        """Show ``on_frame`` the frames in sent data, whether this session or a broadcast encoded them.

        The caller calls it, since only the caller knows when frames are really sent.
        """
        show = self.on_frame  # it may remove itself meanwhile
        if show is None:
            return
        view = self._view_of(self.our_role)
        for header, payload in split_frames(data):
            recorder = FrameRecorder(header, self.shown_bytes, view)
            recorder.add(payload)
            show(self.our_role, recorder.frame())
