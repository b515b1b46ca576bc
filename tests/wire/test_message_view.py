"""A viewer is shown the content of compressed messages, at a bounded cost, and never anything wrong."""

from __future__ import annotations

import random
import zlib

import pytest

from rawws.wire import message_view
from rawws.wire.deflate import STREAM_BYTES, TAIL, WINDOW_BYTES, Deflater, InflateStream
from rawws.wire.frames import RSV1, Opcode, SeenMessage, encode_frame, split_frames
from rawws.wire.message_view import (
    ALLOWED_IN_ADVANCE,
    INFLATED_FOR_EACH,
    INVALID_DEFLATE,
    MOST_KEPT_BYTES,
    TEXT_NOT_UTF8,
    VIEW_BYTES,
    MessageView,
)


class KeptContext:
    """A sender whose messages refer to earlier ones."""

    def __init__(self) -> None:
        self._stream = zlib.compressobj(9, zlib.DEFLATED, -15)

    def deflate(self, message: bytes) -> bytes:
        return (self._stream.compress(message) + self._stream.flush(zlib.Z_SYNC_FLUSH))[: -len(TAIL)]

    def forget(self) -> None:
        self._stream = zlib.compressobj(9, zlib.DEFLATED, -15)


def compressed(payload: bytes, *, fin: bool = True) -> bytes:
    return encode_frame(Opcode.TEXT, payload, fin=fin, rsv=RSV1)


def bomb(size: int) -> bytes:
    return Deflater(15).deflate(bytes(size))


def see(view: MessageView, frames: bytes, *, step: int = 1 << 30) -> list[SeenMessage | None]:
    """Return the message, if any, that ends with each frame."""
    seen = []
    for header, payload in split_frames(frames):
        view.begin_frame(header)
        for start in range(0, len(payload), step):
            view.add(bytes(payload[start : start + step]))
        seen.append(view.end_frame())
    return seen


@pytest.mark.parametrize("step", [1, 7, 1 << 30])
@pytest.mark.parametrize("keeps_context", [True, False])
def test_7692_7_2_3_messages_are_inflated_with_a_context_that_is_kept_and_without(
    keeps_context: bool, step: int
) -> None:
    sender = KeptContext() if keeps_context else Deflater(15)
    messages = [f'{{"price": {number}, "symbol": "EUR"}}'.encode() for number in range(5)]
    view = MessageView(deflates=True, keeps_context=keeps_context)
    frames = b"".join(compressed(sender.deflate(message)) for message in messages)
    assert see(view, frames, step=step) == [SeenMessage(Opcode.TEXT, len(each), each) for each in messages]


def test_5_4_fragments_with_a_ping_between_them_are_one_message() -> None:
    deflated = Deflater(15).deflate(b"Hello" * 3)
    frames = compressed(deflated[:2], fin=False) + encode_frame(Opcode.PING, b"Hello")
    frames += encode_frame(Opcode.CONTINUATION, deflated[2:])
    view = MessageView(deflates=True)
    assert see(view, frames) == [None, None, SeenMessage(Opcode.TEXT, 15, b"Hello" * 3)]
    plain = encode_frame(Opcode.BINARY, b"ab", fin=False) + encode_frame(Opcode.CONTINUATION, b"c")
    assert see(view, plain) == [None, SeenMessage(Opcode.BINARY, 3, b"abc")]


def test_a_view_that_begins_within_a_message_has_the_next_one() -> None:
    frames = encode_frame(Opcode.CONTINUATION, b"lo") + encode_frame(Opcode.TEXT, b"Hello")
    assert see(MessageView(deflates=False), frames) == [None, SeenMessage(Opcode.TEXT, 5, b"Hello")]


@pytest.mark.parametrize("keeps_context", [True, False])
def test_a_stream_of_bombs_is_inflated_within_the_allowance_and_each_begins_visibly(
    keeps_context: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    inflated = 0

    class Counting(InflateStream):
        def inflate(self, data: bytes, most_bytes: int) -> tuple[bytes, bytes]:
            nonlocal inflated
            piece, rest = super().inflate(data, most_bytes)
            inflated += len(piece)
            return piece, rest

    monkeypatch.setattr(message_view, "InflateStream", Counting)
    count = 100
    view = MessageView(deflates=True, keeps_context=keeps_context)
    frames = b"".join(compressed(bomb((1 << 20) + number)) for number in range(count))  # none is like another
    seen = see(view, frames)
    assert inflated <= ALLOWED_IN_ADVANCE + INFLATED_FOR_EACH * len(frames) + MOST_KEPT_BYTES * count
    assert all(message is not None and message.beginning == bytes(MOST_KEPT_BYTES) for message in seen)
    assert [each for each in seen if each is not None and not each.is_all_known]
    assert view.fault is None


def test_a_message_that_uses_all_that_is_allowed_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    said = random.Random(7692).randbytes(2 * MOST_KEPT_BYTES)
    monkeypatch.setattr(message_view, "ALLOWED_IN_ADVANCE", len(said))
    view = MessageView(deflates=True)
    frame = encode_frame(Opcode.BINARY, Deflater(15).deflate(said), rsv=RSV1)
    assert see(view, frame) == [SeenMessage(Opcode.BINARY, len(said), said[:MOST_KEPT_BYTES])]


def test_the_memory_of_a_message_in_fragments_is_bounded_and_counted() -> None:
    view = MessageView(deflates=True, keeps_context=True)
    assert view.held_bytes == VIEW_BYTES
    deflated = bomb(1 << 20)
    see(view, compressed(deflated[:-1], fin=False))
    assert view.held_bytes <= VIEW_BYTES + MOST_KEPT_BYTES + STREAM_BYTES + WINDOW_BYTES
    assert view.held_bytes > VIEW_BYTES + STREAM_BYTES
    see(view, encode_frame(Opcode.CONTINUATION, deflated[-1:]))
    assert view.held_bytes > VIEW_BYTES + STREAM_BYTES  # the next one may refer to it
    own = MessageView(deflates=True)
    see(own, compressed(deflated))
    assert own.held_bytes == VIEW_BYTES


def test_a_viewer_that_has_lost_its_place_says_so_once_and_goes_on() -> None:
    sender, view = KeptContext(), MessageView(deflates=True, keeps_context=True)
    (cut,) = see(view, compressed(sender.deflate(bytes(10 * ALLOWED_IN_ADVANCE) + b"quote quote")))
    assert cut is not None
    assert not cut.is_all_known
    lost = SeenMessage(Opcode.TEXT, 0, b"", is_all_known=False, is_lost=True)
    for _ in range(2):
        assert see(view, b"".join(compressed(sender.deflate(b"quote quote")) for _ in range(3))) == [lost, None, None]
        sender.forget()
        stream = b"".join(compressed(sender.deflate(message)) for message in (b"fresh", b"fresh"))
        assert see(view, stream) == [SeenMessage(Opcode.TEXT, 5, b"fresh")] * 2
        assert view.fault is None
        see(view, compressed(sender.deflate(bytes(10 * ALLOWED_IN_ADVANCE) + b"quote quote")))


def test_a_view_that_begins_in_the_middle_never_shows_anything_wrong() -> None:
    chance, sender = random.Random(6455), KeptContext()
    said = [bytes(chance.choices(b"abcd ", k=chance.randrange(1, 200))) for _ in range(200)]
    frames = [compressed(sender.deflate(message)) for message in said]
    view = MessageView(deflates=True, keeps_context=True, from_start=False)
    for message, frame in zip(said[20:], frames[20:], strict=True):
        (seen,) = see(view, frame)
        assert seen is None or seen.is_lost or seen.beginning == message
    assert view.fault is None


@pytest.mark.parametrize("from_start", [True, False])
def test_7692_7_2_2_invalid_deflate_data_is_a_fault_after_any_message(from_start: bool) -> None:
    view = MessageView(deflates=True, keeps_context=True, from_start=from_start)
    assert see(view, compressed(b"\xff\xff\xff")) == [None]
    assert view.fault == INVALID_DEFLATE


def test_a_reference_to_nothing_is_a_fault_where_all_is_known() -> None:
    refers = bytes.fromhex("f20011000000")  # RFC 7692 §7.2.3.2: "Hello" once more
    view = MessageView(deflates=True, keeps_context=True)
    assert see(view, compressed(refers)) == [None]
    assert view.fault == INVALID_DEFLATE


@pytest.mark.parametrize("text", [b"\xff", b"caf\xc3"])
def test_8_1_a_compressed_text_that_is_not_utf_8_is_a_fault(text: bytes) -> None:
    view = MessageView(deflates=True)
    assert see(view, compressed(Deflater(15).deflate(text))) == [None]
    assert view.fault == TEXT_NOT_UTF8
    assert see(view, encode_frame(Opcode.TEXT, b"late")) == [None]


def test_a_broadcast_is_inflated_once(monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    inflate = InflateStream.inflate

    def note(stream: InflateStream, data: bytes, most_bytes: int) -> tuple[bytes, bytes]:
        made.append(data)
        return inflate(stream, data, most_bytes)

    monkeypatch.setattr(InflateStream, "inflate", note)
    frame = compressed(Deflater(15).deflate(b"to everybody, and to nobody else"))
    views = [MessageView(deflates=True) for _ in range(10)]
    assert {str(see(view, frame)) for view in views} == {str(see(views[0], frame))}
    assert len(made) == 2  # the payload, and the tail
