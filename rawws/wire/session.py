"""One WebSocket connection after its handshake: messages, control frames, close (RFC 6455 §5 to §7).

Frames are read by two readers with the same results: `FastReader` reads whole, plain frames, and `WsprotoReader`, which
is wsproto, reads everything else. A `Session` uses both. It knows how far the closing handshake has come, and gives the
answers that the RFC asks for: a pong to a ping, a close to a close, and a close before we give up.

Feed it with `Session.receive_data`, act on the events that it returns, and send the bytes that `Session.data_to_send`
returns, in order and at a frame boundary. A server that only passes messages on uses `Session.relay_data` instead,
which returns them as frames. Messages to send are encoded with `Session.message`, or with `Session.fragment` when a
message isn't known as a whole.
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
from rawws.wire.events import CloseFrame, CloseReceived, Event, Failed, Message, MessagePart, PingReceived, PlainEvent
from rawws.wire.fast_reader import INFLATED_BYTES_EACH, FastReader
from rawws.wire.frame_recorder import FrameRecorder
from rawws.wire.frames import (
    LENGTH_IN_2_BYTES,
    MAX_CONTROL_PAYLOAD_BYTES,
    RSV1,
    SHORT_BINARY,
    SHORT_TEXT,
    Frame,
    Opcode,
    encode_frame,
    encode_message,
    split_frames,
)
from rawws.wire.message_view import MessageView
from rawws.wire.recent_frames import NO_FRAMES, RecentFrames
from rawws.wire.role import Role
from rawws.wire.wsproto_reader import WsprotoEncoder, WsprotoReader


class State(Enum):
    """The state of a connection after the opening handshake (§4.1, §7.1)."""

    OPEN = "open"  # messages go both ways
    CLOSING = "closing"  # our close is sent, the peer's has not come
    CLOSED = "closed"  # both closes have crossed, or we failed the connection: nothing more is read


CLOSED = State.CLOSED  # a global is found three times as fast as an Enum's member
SERVER, TEXT = Role.SERVER, Opcode.TEXT


# wsproto takes as long for one frame as the fast reader for this number of frames.
WSPROTO_FRAME_WORK = 4


class Session:
    """A WebSocket connection from its open state to its end, for either role.

    ``deflate`` says that permessage-deflate was agreed on, so that compressed messages are accepted. With ``takeover``
    they may refer to earlier ones (RFC 7692 §7.1.1). ``deflater``, if there is one, compresses the messages that
    `message` encodes. ``fast_lane=False`` reads and writes every frame through wsproto, for study; nothing else
    differs. With ``relays``, messages come out of `relay_data` as frames instead of out of `receive_data`. With
    ``echoes`` these go back to the peer, and pongs come out among them, each at its place.

    ``state`` is its `State`, ``close_sent`` and ``close_rcvd`` are the closes so far, and ``fault`` is the reason why
    we failed the connection; each of these three is None until then.

    While ``on_frame`` is set, ``on_frame(sender, frame)`` is called for every frame that comes in, and by `show_sent`
    for those that go out. All frames are read by wsproto then, and ``shown_bytes`` of each payload are collected.
    """

    answers_pings = True  # §5.5.2: the peer must

    __slots__ = (
        "_deflater",
        "_echoes",
        "_encoder",
        "_fast",
        "_inflater",
        "_inflates",
        "_relays",
        "_streams",
        "_views",
        "_wsproto",
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
        "unread",
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
        # One for all messages if they share a context; otherwise a new one each time that wsproto reads.
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
        self._encoder = None if fast_lane else WsprotoEncoder(our_role)
        # Made when there is a frame for it, and dropped after that where there is a fast reader: it takes 2 KiB.
        self._wsproto: WsprotoReader | None = None
        # Bytes that were received after the most that was asked for. The next call reads them, and needs no data.
        self.unread = b""
        self.outgoing = b""  # for `data_to_send`
        if on_frame is not None:
            self.watch(on_frame)

    def __repr__(self) -> str:
        return (
            f"<Session {self.our_role.name} {self.state.value} close_sent={self.close_sent} "
            f"close_rcvd={self.close_rcvd} fault={self.fault and self.fault.code}>"
        )

    @property
    def recent_frames(self) -> RecentFrames:
        """The last frames that have come."""
        if self._wsproto is not None:
            return self._wsproto.recent_frames
        return NO_FRAMES if self._fast is None else self._fast.recent_frames

    @property
    def held_bytes(self) -> int:
        """The bytes of memory that an incomplete message takes."""
        fast = 0 if self._fast is None else self._fast.held_bytes
        return len(self.unread) + fast + (0 if self._wsproto is None else self._wsproto.held_bytes)

    @property
    def memory_bytes(self) -> int:
        """The bytes of memory it has grown by since it was made: `held_bytes`, the frame reader, unsent answers."""
        fast, reader = self._fast, self._wsproto
        if reader is None and fast is not None and fast.is_idle and self._inflater is None and self._views is None:
            return len(self.unread) + len(self.outgoing)  # nearly always; this is asked of every connection
        own = self.held_bytes + len(self.outgoing) + (0 if fast is None else fast.own_bytes)
        if self._views is not None:
            own += sum(view.held_bytes for view in self._views.values())
        if reader is not None:
            return own + reader.own_bytes
        return own if self._inflater is None else own + self._inflater.held_bytes

    @property
    def is_closed(self) -> bool:
        """Whether both closes have crossed, or we failed the connection."""
        return self.state is State.CLOSED

    def describe_end(self) -> str:
        """Return who ended the connection, with which code, and why, as far as it went."""
        them = f"the {self.our_role.other.label}"
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
        if self._wsproto is not None:
            self._wsproto.view = self._view_of(self.our_role.other)

    def _view_of(self, sender: Role) -> MessageView | None:
        return None if self._views is None else self._views[sender]

    # Receiving

    def receive_data(self, data: bytes, most: float = math.inf) -> list[Event]:
        """Read bytes from the peer and return their events, in order.

        Few bytes may have many events: a KiB may hold a MiB of messages, or a hundred of them. So ``most`` is about the
        number of events that are wanted. Each inflated KiB counts as one too, and each frame that wsproto reads counts
        as `WSPROTO_FRAME_WORK`, since it takes longer.

        Never raises for what a peer sends. Once the state is CLOSED, data is ignored (§5.5.1).
        """
        events: list[Any] = self.receive_plain(data, most)
        return [Message(*event) if type(event) is tuple else event for event in events]

    def receive_plain(self, data: bytes, most: float = math.inf) -> list[PlainEvent]:
        """Do the same as `receive_data`, with plain tuples of opcode and payload in place of each `Message`.

        This is for a server that reads very many messages. The other events are as they are there.
        """
        events: list[PlainEvent] = []
        self._receive(data, events, most)
        return events

    def relay_data(self, data: bytes, most: float = math.inf) -> list[bytes | bytearray]:
        """Read bytes from the peer and return its messages as the frames in which a server passes them on.

        This is for a session that ``relays``. A frame may be in two pieces, one after the other. Control frames are
        answered as always, and not returned. ``most`` is as for `receive_data`.
        """
        frames: list[bytes | bytearray] = []
        self._receive(data, frames, most)
        return frames

    def large_buffer(self, least_bytes: int = 1) -> memoryview | None:
        """Return a buffer to receive the rest of a large message into; None if no such message is incomplete.

        It is also None when fewer than ``least_bytes`` are awaited. Release it, then call `received` with the number of
        bytes that came.
        """
        return None if self._fast is None else self._fast.large_buffer(least_bytes)

    def received(self, size: int) -> list[Any]:
        """Read the bytes that are in the `large_buffer`; returns what `receive_plain` or `relay_data` does."""
        assert self._fast is not None
        out: list[Any] = []
        rest = self._fast.received(size, out)
        if rest is not None:
            self._receive_slowly(rest, out, math.inf)
        return out

    def begin_streaming(self) -> list[Event]:
        """Report messages in parts from now on, as they come; returns the part that has come of the present one."""
        events: list[Event] = []
        self._streams = True
        if self._wsproto is not None:
            self._wsproto.begin_streaming(events)
        if self._fast is not None and not self._fast.is_idle:
            self._receive_slowly(self._fast.give_up(), events, math.inf)
        return events

    def end_streaming(self) -> None:
        """Report whole messages again, from the next one on."""
        self._streams = False
        if self._wsproto is not None:
            self._wsproto.streams = False

    def _receive(self, data: bytes, out: list[Any], most: float) -> None:
        if self.unread:
            data, self.unread = self.unread + data, b""
        fast = self._fast
        if (
            fast is not None
            and self._wsproto is None
            and self.state is not CLOSED
            and not self._streams
            and (self.on_frame is None or not fast.is_idle)  # the fast reader ends the frame that it has begun
        ):
            rest = fast.read(data, out, most)  # nearly always, nothing else is to be done
            if fast.pings is not None:
                self._answer_pings(fast)
            if rest is None:
                if fast.unread:
                    self.unread, fast.unread = fast.unread, b""
                return
            data = rest
            most -= len(out)
        self._receive_slowly(data, out, most)

    def _receive_slowly(self, data: bytes, out: list[Any], most: float) -> None:
        """Read with wsproto and the fast reader in turns; ``data`` begins with a frame for wsproto."""
        spare: WsprotoReader | None = None  # for the next turn: making one costs as much as three small frames
        while data and self.state is not CLOSED:
            if most <= 0:
                self.unread = data
                return
            if self._wsproto is None:
                spare = spare or self._make_wsproto_reader()
                spare.recent_frames = self.recent_frames
                self._wsproto = spare
            spare = self._wsproto
            data, work = self._read_with_wsproto(spare, data, out, most)
            most -= work
            if data and self._fast is not None and self._wsproto is None and self._takes_turns and most > 0:
                before = len(out)
                rest = self._fast.read(data, out, before + most)
                self._answer_pings(self._fast)
                if rest is None:
                    self.unread, self._fast.unread = self._fast.unread, b""
                    break
                data = rest
                most -= len(out) - before

    @property
    def _takes_turns(self) -> bool:
        """Whether the fast reader goes on whenever wsproto's reader is idle."""
        return self.on_frame is None and not self._streams

    def _answer_pings(self, fast: FastReader) -> None:
        """Answer the pings that the fast reader has read."""
        pings, fast.pings = fast.pings, None
        if pings and self.state is State.OPEN:
            key = self._mask_key
            self.outgoing += b"".join([encode_frame(Opcode.PONG, payload, mask_key=key()) for payload in pings])

    def _read_with_wsproto(self, reader: WsprotoReader, data: bytes, out: list[Any], most: float) -> tuple[bytes, int]:
        """Read with wsproto; where there is a fast reader, only up to where that can go on.

        Returns the bytes that are left, and the work that was done, to be counted towards ``most``.
        """
        events: list[Event] = []
        work = -reader.frames
        # It is also one message at a time where ``most`` is limited, since the next one may inflate to any size.
        until_idle = (self._fast is not None and self._takes_turns) or most < math.inf
        most_frames = math.ceil(most / WSPROTO_FRAME_WORK) if most < math.inf else most
        position = reader.read(data, 0, events, self.on_frame, until_idle=until_idle, most_frames=most_frames)
        work = (work + reader.frames) * WSPROTO_FRAME_WORK
        for event in events:
            self._answer(event)
            if isinstance(event, (Message, MessagePart)):
                work += len(event.payload) // INFLATED_BYTES_EACH
            if not self._relays:
                out.append(tuple(event) if isinstance(event, Message) else event)
            elif isinstance(event, Message):
                self._encode(event.opcode, event.payload, out)
            elif self._echoes and isinstance(event, PingReceived) and self.outgoing:
                out.append(self.data_to_send())
        if self._fast is not None and reader.is_idle:
            self._fast.recent_frames = reader.recent_frames
            self._wsproto = None
        return data[position:], work

    def _encode(self, opcode: Opcode, payload: bytes | bytearray, frames: list[bytes | bytearray]) -> None:
        if self._encoder is None:
            encode_message(opcode, payload, frames)
        else:
            frames.append(self._encoder.encode(opcode, payload))

    def _make_wsproto_reader(self) -> WsprotoReader:
        inflaters = [self._inflater or Inflater(self.max_message_bytes)] if self._inflates else []
        reader = WsprotoReader(self.our_role, self.max_message_bytes, inflaters)
        reader.streams = self._streams
        reader.shown_bytes = self.shown_bytes
        reader.view = self._view_of(self.our_role.other)
        return reader

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

    # Sending

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
        if self.our_role is SERVER and (size := len(payload)) < LENGTH_IN_2_BYTES:  # most messages
            return (SHORT_TEXT if opcode is TEXT else SHORT_BINARY)[size] + payload
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

        The caller calls this, because it alone knows when the frames go out.
        """
        show = self.on_frame  # a call may set it to None
        if show is None:
            return
        view = self._view_of(self.our_role)
        for header, payload in split_frames(data):
            recorder = FrameRecorder(header, self.shown_bytes, view)
            recorder.add(payload)
            show(self.our_role, recorder.frame())
