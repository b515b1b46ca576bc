"""A harness for the frames behind the handshake: any bytes, cut in any way, through each lane (RFC 6455 §5 to §8)."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from rawws.errors import Fault
from rawws.wire.deflate import Deflater
from rawws.wire.events import CloseReceived, Event, Failed, Message, MessagePart
from rawws.wire.frames import MASK, MAX_HEADER_BYTES, RSV1, Opcode, encode_frame, parse_header, split_frames
from rawws.wire.masking import apply_mask
from rawws.wire.role import Role
from rawws.wire.session import Session
from tests.fuzz.runner import Options, cut, main

LIMIT = 300
MASK_KEY = bytes.fromhex("37 fa 21 3d")


@dataclass(frozen=True)
class Way:
    """How a session is set up, and fed."""

    our_role: Role = Role.SERVER
    deflate: bool = False
    takeover: bool = False
    fast_lane: bool = True
    relays: bool = False
    streams: bool = False
    into_buffer: bool = False
    closes_first: bool = False

    def begin(self) -> Session:
        session = Session(
            self.our_role,
            max_message_bytes=LIMIT,
            deflate=self.deflate,
            takeover=self.deflate and self.takeover,
            fast_lane=self.fast_lane,
            relays=self.relays,
        )
        if self.streams:
            assert session.begin_streaming() == []
        if self.closes_first:
            session.close(1000, "bye")
        return session


def check(data: bytes) -> None:
    """The first byte says how the session is set up, the second how the rest is cut.

    With the highest bit the masks are mended: nearly all that is changed at random would break that rule first.
    """
    options = Options(data, count=3)
    our_role = Role.CLIENT if options.flag(0, 0) else Role.SERVER
    relays = options.flag(0, 4) and our_role is Role.SERVER
    way = Way(
        our_role,
        deflate=options.flag(0, 1),
        takeover=options.flag(0, 2),
        fast_lane=not options.flag(0, 3),
        relays=relays,
        streams=options.flag(0, 5) and not relays,
        into_buffer=options.flag(0, 6),
        closes_first=options.flag(2, 0),
    )
    stream = with_masks_mended(options.rest, our_role) if options.flag(0, 7) else options.rest
    check_chunks(cut(stream, options.number(1)), way)


def check_chunks(chunks: list[bytes], way: Way) -> None:
    """No bytes make it raise, or fail twice, or hold more than a message may have; no cut changes what they mean."""
    whole = b"".join(chunks)
    in_chunks, at_once = receive(chunks, way), receive([whole] if whole else [], way)
    assert in_chunks.events == at_once.events
    assert in_chunks.sent == at_once.sent
    assert _without_wording(in_chunks.fault, way) == _without_wording(at_once.fault, way)


def _without_wording(fault: Fault | None, way: Way) -> object:
    """Return what of a fault can't depend on the cut: of what is wrong in a compressed message, one thing is told."""
    return fault is None if way.deflate else fault


@dataclass
class Outcome:
    events: list[Any]
    sent: list[tuple[int, bytes]]
    fault: Fault | None


def receive(chunks: list[bytes], way: Way) -> Outcome:
    """Feed a session as a loop does, hold it to its promises at each step, and return what came of it."""
    session = way.begin()
    events: list[Any] = []
    sent = session.data_to_send()
    for chunk in chunks:
        was_closed = session.is_closed
        before = len(events)
        for out in feed(session, chunk, way):
            events += out
        sent += session.data_to_send()
        assert not was_closed or len(events) == before, "something was read behind the end"
        assert session.held_bytes <= LIMIT + MAX_HEADER_BYTES, f"{session.held_bytes} bytes are held"
    assert session.describe_end().isprintable()
    ours = [
        (h.opcode, bytes(p) if h.mask_key is None else apply_mask(p.tobytes(), h.mask_key))
        for h, p in split_frames(sent)
    ]
    closes = [place for place, (opcode, _) in enumerate(ours) if opcode == Opcode.CLOSE]
    assert closes in ([], [len(ours) - 1]), "a close is sent once, and nothing behind it (§5.5.1)"
    assert bool(closes) is (session.is_closed or way.closes_first)
    assert session.is_closed is (session.fault is not None or session.close_rcvd is not None)
    if session.fault is not None and not way.closes_first:
        ours[-1] = (Opcode.CLOSE, ours[-1][1][:2] if not way.deflate else b"")  # its reason is that of the fault
    return Outcome(_joined(events) if way.relays else check_events(events, session), ours, session.fault)


def feed(session: Session, chunk: bytes, way: Way) -> Iterator[list[Any]]:
    """Give a chunk to a session, directly into its buffer where it has one for a large message."""
    while way.into_buffer and chunk and (buffer := session.large_buffer()) is not None:
        size = min(len(buffer), len(chunk))
        buffer[:size] = chunk[:size]
        buffer.release()
        chunk = chunk[size:]
        got: list[Any] = session.received(size)
        yield [Message(*event) if type(event) is tuple else event for event in got]
    if chunk:
        yield session.relay_data(chunk) if way.relays else session.receive_data(chunk)


def check_events(events: list[Event], session: Session) -> list[Any]:
    """Hold events to what they promise, and return them with the parts of messages joined."""
    ends = [place for place, event in enumerate(events) if isinstance(event, CloseReceived | Failed)]
    assert ends == ([len(events) - 1] if session.is_closed else []), "the end is the last event, and there is one"
    joined: list[Any] = []
    parts: list[MessagePart] = []
    for event in events:
        match event:
            case Message(opcode, payload):
                assert len(payload) <= LIMIT
                if opcode is Opcode.TEXT:
                    payload.decode()
                joined.append((opcode, bytes(payload)))
            case MessagePart(opcode, payload, final):
                assert payload or final
                if opcode is Opcode.TEXT:
                    payload.decode()  # parts end between two characters
                parts.append(event)
                if final:
                    joined.append((opcode, b"".join(part.payload for part in parts)))
                    parts.clear()
                assert sum(len(part.payload) for part in parts) <= LIMIT
            case Failed():
                pass
            case _:
                joined.append(event)
    return joined


def _joined(frames: list[bytes | bytearray]) -> list[Any]:
    """Return the messages in what is passed on: whole frames without masks, each legal."""
    messages = []
    for header, payload in split_frames(b"".join(frames)):
        assert header.fin
        assert header.opcode in (Opcode.TEXT, Opcode.BINARY)
        assert header.mask_key is None
        assert len(payload) <= LIMIT
        if header.opcode == Opcode.TEXT:
            payload.tobytes().decode()
        messages.append((header.opcode, payload.tobytes()))
    return messages


def with_masks_mended(stream: bytes, our_role: Role) -> bytes:
    """Return a stream whose frames are masked as they have to be for us (§5.1), with what they have for a payload."""
    pieces = []
    at = 0
    while at < len(stream):
        wrong = len(stream) - at > 1 and bool(stream[at + 1] & MASK) is (our_role is Role.CLIENT)
        head = bytearray(stream[at : at + MAX_HEADER_BYTES])
        if wrong:
            head[1] ^= MASK
        header = parse_header(head)
        if header is None:
            pieces.append(bytes(head))
            break
        payload_at = at + len(header.raw)
        at = payload_at + header.payload_bytes
        pieces += (header.raw, stream[payload_at:at])
    return b"".join(pieces)


def frame(opcode: int, payload: bytes, *, fin: bool = True, rsv: int = 0) -> bytes:
    return encode_frame(opcode, payload, fin=fin, rsv=rsv, mask_key=MASK_KEY)


def said() -> list[bytes]:
    """Return streams of masked frames, as a client sends them."""
    small = Deflater(15).deflate(b"Hello" * 9)
    return [
        frame(Opcode.TEXT, b"Hello") + frame(Opcode.BINARY, bytes(200)) + frame(Opcode.CLOSE, b"\x03\xe8bye"),
        frame(Opcode.TEXT, "Häl".encode()[:2], fin=False) + frame(Opcode.PING, b"?") + frame(0, "Häl".encode()[2:]),
        frame(Opcode.TEXT, small, rsv=RSV1) + frame(Opcode.PONG, b"") + frame(Opcode.TEXT, b"x" * 126),
        frame(Opcode.BINARY, small[:4], rsv=RSV1, fin=False) + frame(Opcode.PING, b"") + frame(0, small[4:]),
        frame(Opcode.TEXT, Deflater(15).deflate(bytes(5000)), rsv=RSV1),
        frame(Opcode.TEXT, bytes.fromhex("f3 48 cd c9 c9 07 00 00"), rsv=RSV1) * 2,  # RFC 7692 §7.2.3.4
        frame(Opcode.TEXT, b"x" * 290, fin=False) + frame(0, b"y" * 20),
        frame(Opcode.CLOSE, b"\x03\xf6") + frame(Opcode.TEXT, b"late"),
        frame(Opcode.TEXT, b"\xc3\x28"),
        frame(Opcode.TEXT, b"Hello")[:-2],
    ]


seeds = [
    bytes((0x80 | setup, how, 0)) + stream
    for setup, how in ((0, 0), (1, 1), (2, 0x24), (6, 1), (10, 3), (0x10, 2), (0x22, 5), (0x40, 0x11), (0x43, 0x41))
    for stream in said()
]

if __name__ == "__main__":
    sys.exit(main(check, seeds))
