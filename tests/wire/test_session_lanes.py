"""A session and its two lanes: what is relayed, what is held meanwhile, and what is received right into its place."""

from __future__ import annotations

import zlib
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rawws.wire.events import Event, Message
from rawws.wire.frames import RSV1, Opcode, encode_frame, encode_header
from rawws.wire.recent_frames import NO_FRAMES, describe_recent_frames
from rawws.wire.role import Role
from rawws.wire.session import Session
from tests.wire.helpers import MASK_KEY, assert_failing


def deflate(payload: bytes) -> bytes:
    stream = zlib.compressobj(6, zlib.DEFLATED, -15)
    return (stream.compress(payload) + stream.flush(zlib.Z_SYNC_FLUSH))[:-4]


MANY = {
    "whole messages": encode_frame(Opcode.TEXT, b"a", mask_key=MASK_KEY) * 500,
    "fragments": (
        encode_frame(Opcode.TEXT, b"a", fin=False, mask_key=MASK_KEY)
        + encode_frame(Opcode.CONTINUATION, b"a", mask_key=MASK_KEY)
    )
    * 500,
    "bombs": encode_frame(Opcode.TEXT, deflate(b"\0" * 500_000), rsv=RSV1, mask_key=MASK_KEY) * 50,
    "bombs in fragments": (
        encode_frame(Opcode.TEXT, deflate(b"\0" * 500_000), fin=False, rsv=RSV1, mask_key=MASK_KEY)
        + encode_frame(Opcode.CONTINUATION, b"", mask_key=MASK_KEY)
    )
    * 50,
}


@pytest.mark.parametrize("fast_lane", [True, False], ids=["fast", "plain"])
@pytest.mark.parametrize("stream", MANY.values(), ids=MANY.keys())
def test_few_bytes_amount_to_no_more_at_a_time_than_is_asked_for(stream: bytes, fast_lane: bool) -> None:
    session = Session(Role.SERVER, max_message_bytes=1 << 20, deflate=True, fast_lane=fast_lane)
    events = session.receive_data(stream, 20)
    assert session.unread
    assert len(stream) * 0.8 < session.held_bytes <= len(stream), "the rest is kept as it came"
    count = 0
    while True:
        assert 1 <= len(events) <= 20 or not count
        assert sum(len(event.payload) for event in events if isinstance(event, Message)) < 20 * 1024 + 500_001
        count += len(events)
        if not session.unread:
            break
        events = session.receive_data(b"", 20)
    assert count == (50 if len(stream) > 20_000 else 500)
    assert session.held_bytes == 0


def in_pieces(data: bytes, size: int) -> Iterator[bytes]:
    return (data[start : start + size] for start in range(0, len(data), size))


@pytest.mark.parametrize("opcode", [Opcode.TEXT, Opcode.BINARY])
def test_a_large_message_is_collected_in_a_buffer_that_is_seldom_replaced(opcode: Opcode) -> None:
    # Each replacement copies what there is: one for each piece would make the cost quadratic.
    session = Session(Role.SERVER, max_message_bytes=1 << 24)
    payload = b"0123456789abcdef" * (1 << 20)
    frame = encode_frame(opcode, payload, mask_key=b"\x01\x02\x03\x04")
    buffers: list[object] = []
    events: list[Event] = []
    for piece in in_pieces(frame, 1 << 16):
        events += session.receive_data(piece)
        with session.large_buffer() or memoryview(b"") as buffer:
            if not any(buffer.obj is seen for seen in buffers):
                buffers.append(buffer.obj)
    assert events == [Message(opcode, payload)]
    assert len(buffers) < 8


def test_a_header_that_promises_much_reserves_no_more_than_five_times_what_came() -> None:
    session = Session(Role.SERVER, max_message_bytes=1 << 30)
    frame = encode_header(Opcode.BINARY, 1 << 30, mask_key=b"\x01\x02\x03\x04") + bytes(1000)
    session.receive_data(frame)
    buffer = session.large_buffer()
    assert buffer is not None
    with buffer:
        assert len(buffer) <= 4 * 1000


@given(payload=st.binary(min_size=1, max_size=5000), data=st.data(), sizes=st.lists(st.integers(1, 2000)))
def test_bytes_put_right_into_the_large_buffer_amount_to_the_same(
    payload: bytes, data: st.DataObject, sizes: list[int]
) -> None:
    frame = encode_frame(Opcode.BINARY, payload, mask_key=b"\x01\x02\x03\x04")
    session = Session(Role.SERVER, max_message_bytes=5000, relays=True)
    position = data.draw(st.integers(1, len(frame)))
    pieces = session.relay_data(frame[:position])
    for size in [*sizes, *[len(frame)] * 20]:
        buffer = session.large_buffer()
        if buffer is None:
            pieces += session.relay_data(frame[position : position + size])
            position = min(position + size, len(frame))
            continue
        with buffer:
            piece = frame[position : position + min(size, len(buffer))]
            buffer[: len(piece)] = piece
        position += len(piece)
        pieces += session.received(len(piece))
    assert b"".join(pieces) == encode_frame(Opcode.BINARY, payload)


@pytest.mark.parametrize("fast_lane", [True, False], ids=["fast", "plain"])
def test_relayed_messages_are_those_that_would_have_been_received(fast_lane: bool) -> None:
    messages = [(Opcode.TEXT, "é" * size) for size in (0, 1, 62, 63, 200, 3000)]
    data = b"".join(encode_frame(opcode, text.encode(), mask_key=b"abcd") for opcode, text in messages)
    data += encode_frame(Opcode.PING, b"p", mask_key=b"abcd") + encode_frame(0x2, b"a", fin=False, mask_key=b"abcd")
    data += encode_frame(0x0, b"b", mask_key=b"abcd")
    session = Session(Role.SERVER, max_message_bytes=6000, relays=True, fast_lane=fast_lane)
    relayed = b"".join(session.relay_data(data))
    expected = b"".join(encode_frame(opcode, text.encode()) for opcode, text in messages)
    assert relayed == expected + encode_frame(Opcode.BINARY, b"ab")
    assert session.data_to_send() == encode_frame(Opcode.PONG, b"p")


def masked(opcode: int, payload: bytes, *, fin: bool = True) -> bytes:
    return encode_frame(opcode, payload, fin=fin, mask_key=b"abcd")


@pytest.mark.parametrize("fast_lane", [True, False], ids=["fast", "plain"])
def test_held_bytes_count_a_message_until_it_is_whole(fast_lane: bool) -> None:
    session = Session(Role.SERVER, max_message_bytes=10_000, fast_lane=fast_lane)
    frame = masked(Opcode.BINARY, bytes(4000))
    assert session.held_bytes == 0
    session.receive_data(frame[:1008])
    assert 1000 <= session.held_bytes <= 4 * 1000
    session.receive_data(frame[1008:])
    assert session.held_bytes == 0
    session.receive_data(
        masked(Opcode.TEXT, b"x" * 300, fin=False) + masked(Opcode.CONTINUATION, b"y" * 200, fin=False)
    )
    assert session.held_bytes == 500
    session.receive_data(masked(Opcode.CONTINUATION, b"z"))
    assert session.held_bytes == 0


def test_the_beginning_of_a_header_is_held_too() -> None:
    session = Session(Role.SERVER, max_message_bytes=10_000)
    session.receive_data(masked(Opcode.BINARY, bytes(4000))[:3])
    assert session.held_bytes == 3


def test_8_1_a_text_that_goes_right_to_its_place_fails_where_it_stops_being_utf_8() -> None:
    payload = b"x" * 2000 + b"\xff" + b"y" * 2000
    frame = encode_frame(Opcode.TEXT, payload, mask_key=MASK_KEY)
    session = Session(Role.SERVER, max_message_bytes=10_000)
    events = session.receive_data(frame[:1000])
    position = 1000
    while not events:
        buffer = session.large_buffer()
        assert buffer is not None
        with buffer:
            piece = frame[position : position + min(300, len(buffer))]
            buffer[: len(piece)] = piece
        position += len(piece)
        events += session.received(len(piece))
    assert position - 300 <= frame.index(payload[2000] ^ MASK_KEY[0], 2000) < position + 300
    assert session.large_buffer() is None
    assert_failing(session, events, 1007, "text_not_utf8")


@pytest.mark.parametrize("fast_lane", [True, False], ids=["fast", "plain"])
def test_the_trail_goes_on_through_both_lanes(fast_lane: bool) -> None:
    session = Session(Role.SERVER, max_message_bytes=10_000, fast_lane=fast_lane)
    assert session.recent_frames == NO_FRAMES
    trails = []
    for frame in (
        masked(Opcode.TEXT, b"Hello"),
        masked(Opcode.TEXT, b"Hel", fin=False),
        masked(Opcode.CONTINUATION, b"lo"),
        masked(Opcode.BINARY, bytes(2000)),
    ):
        session.receive_data(frame)
        trails.append(describe_recent_frames(session.recent_frames))
    assert trails == [
        "TEXT of 5 bytes",
        "TEXT of 5 bytes, TEXT of 3 bytes (not the last fragment)",
        "TEXT of 5 bytes, TEXT of 3 bytes (not the last fragment), CONTINUATION of 2 bytes",
        "TEXT of 5 bytes, TEXT of 3 bytes (not the last fragment), CONTINUATION of 2 bytes, BINARY of 2,000 bytes",
    ]


def test_only_the_fast_lane_has_a_buffer_to_receive_into() -> None:
    begun = masked(Opcode.BINARY, bytes(4000))[:1000]
    for fast_lane in (True, False):
        session = Session(Role.SERVER, max_message_bytes=10_000, fast_lane=fast_lane)
        assert session.receive_data(begun) == []
        assert (session.large_buffer() is not None) is fast_lane
        assert session.large_buffer(least_bytes=3009) is None, "3,008 bytes are awaited"
