"""The recorded ends of a frame, unmasked, are the same in any chunking."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rawws.wire.frame_recorder import FrameRecorder
from rawws.wire.frames import Opcode, encode_frame, parse_header
from rawws.wire.message_view import MessageView
from tests.wire.helpers import MASK_KEY, every_split, record


@pytest.mark.parametrize("mask_key", [None, MASK_KEY], ids=["unmasked", "masked"])
def test_a_short_payload_is_kept_whole(mask_key: bytes | None) -> None:
    for chunks in every_split(encode_frame(Opcode.TEXT, b"Hello", mask_key=mask_key)):
        frame = record(chunks)
        assert (frame.payload_head, frame.payload_tail, frame.left_out_bytes) == (b"Hello", b"", 0)
        assert frame.message is None


@pytest.mark.parametrize("mask_key", [None, MASK_KEY], ids=["unmasked", "masked"])
def test_the_ends_of_a_long_payload_are_kept(mask_key: bytes | None) -> None:
    payload = bytes(i % 251 for i in range(1001))
    frame = record([encode_frame(Opcode.BINARY, payload, mask_key=mask_key)])
    assert frame.payload_head == payload[:125]
    assert frame.payload_tail == payload[-64:]


@pytest.mark.parametrize("mask_key", [None, MASK_KEY], ids=["unmasked", "masked"])
def test_a_view_gets_the_payload_and_returns_the_message(mask_key: bytes | None) -> None:
    raw = encode_frame(Opcode.TEXT, b"Hello", mask_key=mask_key)
    header = parse_header(raw)
    assert header is not None
    recorder = FrameRecorder(header, view=MessageView(deflates=False))
    recorder.add(memoryview(raw)[len(header.raw) :])
    message = recorder.frame().message
    assert message is not None
    assert (message.opcode, message.beginning, message.size) == (Opcode.TEXT, b"Hello", 5)


@given(st.binary(max_size=400), st.none() | st.just(MASK_KEY), st.lists(st.integers(1, 100), max_size=10))
def test_the_ends_of_a_frame_are_the_same_in_any_chunking(
    payload: bytes, mask_key: bytes | None, sizes: list[int]
) -> None:
    rest, chunks = encode_frame(Opcode.BINARY, payload, mask_key=mask_key), []
    for size in sizes:
        chunks.append(rest[:size])
        rest = rest[size:]
    frame = record([chunk for chunk in [*chunks, rest] if chunk])
    assert frame.payload_head == payload[:125]
    assert frame.payload_tail == payload[125:][-64:]
    assert frame.left_out_bytes == max(0, len(payload) - 125 - 64)


def test_a_recorder_knows_how_much_of_a_payload_it_keeps() -> None:
    header = parse_header(encode_frame(2, bytes(500)))
    assert header is not None
    recorder = FrameRecorder(header, 200)
    recorder.add(bytes(5))
    assert recorder.held_bytes == 5
    recorder.add(bytes(495))
    assert 200 <= recorder.held_bytes < 300
