"""The fast lane amounts to wsproto: for any bytes in any chunks, in both roles, with and without compression."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rawws.wire import frames
from rawws.wire.events import Event, Message
from rawws.wire.frames import FIN, RSV1, RSV2, Opcode, encode_frame, encode_header
from rawws.wire.role import Role
from rawws.wire.session import Session
from tests.wire.helpers import MASK_KEY, assert_failing

LIMIT = 3000

BOTH_ROLES = pytest.mark.parametrize("role", list(Role), ids=lambda role: role.name.lower())

lengths = st.sampled_from([0, 1, 2, 3, 4, 5, 7, 8, 64, 125, 126, 127, 1023, 1024, 1025, 1500, LIMIT, LIMIT + 1])
texts = st.one_of(st.text(max_size=40).map(str.encode), lengths.map(lambda size: ("é" * size).encode()[:size]))
payloads = st.one_of(st.binary(max_size=40), texts, lengths.map(lambda size: b"\x80" * size))
keys = st.one_of(st.binary(min_size=4, max_size=4), st.just(b"\0\0\0\0"))
close_payloads = st.sampled_from([b"", b"\x03", b"\x03\xe8bye", b"\x03\xf6", b"\x03\xf6\xff", b"\x03\xed", b"\x27\x10"])


def deflate(payload: bytes) -> bytes:
    stream = zlib.compressobj(6, zlib.DEFLATED, -15)
    return (stream.compress(payload) + stream.flush(zlib.Z_SYNC_FLUSH))[:-4]


@st.composite
def legal_frames(draw: st.DrawFn) -> tuple[int, bytes]:
    """The first byte and the payload of a frame that is legal between messages, but perhaps not UTF-8."""
    first = draw(st.sampled_from([Opcode.TEXT, Opcode.TEXT, Opcode.BINARY, Opcode.PING, Opcode.PONG]))
    if first & frames.CONTROL:
        return FIN | first, draw(st.binary(max_size=125))
    if draw(st.integers(0, 3)):
        return FIN | first, draw(payloads)
    return FIN | RSV1 | first, draw(st.one_of(payloads.map(deflate), payloads, st.just(deflate(b"\0" * 9000))))


@st.composite
def any_frames(draw: st.DrawFn) -> tuple[int, bytes]:
    """Any first byte at all, fragments among them, with some payload."""
    first = draw(st.one_of(st.sampled_from([0x00, 0x01, 0x02, 0x80, 0x88, 0x41, FIN | RSV2 | 1]), st.integers(0, 255)))
    return first, draw(close_payloads if first & 0xF == Opcode.CLOSE else payloads)


@st.composite
def streams(draw: st.DrawFn, role: Role) -> bytes:
    stream = bytearray()
    for first, payload in draw(st.lists(st.one_of(legal_frames(), legal_frames(), any_frames()), max_size=8)):
        masked = (role is Role.SERVER) is (draw(st.integers(0, 30)) > 0)
        key = draw(keys) if masked else None
        stream += encode_frame(first & 0xF, payload, fin=bool(first & FIN), rsv=first & 0x70, mask_key=key)
    for _ in range(draw(st.sampled_from([0, 0, 0, 1, 2]))):  # mutations
        if stream:
            stream[draw(st.integers(0, len(stream) - 1))] = draw(st.integers(0, 255))
    return bytes(stream) + draw(st.sampled_from([b"", b"", b"\x81", b"\x81\x05", b"\x81\xfe\x00", b"\xff"]))


def events_of(stream: bytes, cuts: list[int], session: Session) -> list[Event]:
    events: list[Event] = []
    edges = [0, *sorted(cut for cut in cuts if cut < len(stream)), len(stream)]
    for start, end in pairwise(edges):
        events += session.receive_data(stream[start:end])
    return events


def session_of(role: Role, *, deflate: bool, fast_lane: bool) -> Session:
    return Session(role, max_message_bytes=LIMIT, deflate=deflate, fast_lane=fast_lane)


@BOTH_ROLES
@given(data=st.data(), deflated=st.booleans())
@settings(max_examples=300, deadline=None)
def test_any_bytes_in_any_chunks_give_the_same_events_in_both_lanes(
    role: Role, data: st.DataObject, deflated: bool
) -> None:
    stream = data.draw(st.one_of(streams(role), streams(role), st.binary(max_size=300)))
    cuts = data.draw(st.lists(st.integers(0, max(len(stream), 1)), max_size=12))
    fast = session_of(role, deflate=deflated, fast_lane=True)
    plain = session_of(role, deflate=deflated, fast_lane=False)
    assert events_of(stream, cuts, fast) == events_of(stream, cuts, plain)
    assert (fast.state, fast.close_sent, fast.close_rcvd, fast.fault) == (
        plain.state,
        plain.close_sent,
        plain.close_rcvd,
        plain.fault,
    )
    if role is Role.SERVER:  # a client's keys are random
        assert fast.data_to_send() == plain.data_to_send()


@BOTH_ROLES
@given(data=st.data(), deflated=st.booleans(), fast_lane=st.booleans(), shown=st.booleans())
@settings(max_examples=300, deadline=None)
def test_it_makes_no_difference_how_much_is_asked_for_at_a_time(
    role: Role, data: st.DataObject, deflated: bool, fast_lane: bool, shown: bool
) -> None:
    stream = data.draw(st.one_of(streams(role), streams(role), st.binary(max_size=300)))
    cuts = data.draw(st.lists(st.integers(0, max(len(stream), 1)), max_size=6))
    whole, some = (session_of(role, deflate=deflated, fast_lane=fast_lane) for _ in range(2))
    if shown:
        some.on_frame = lambda *_: None
    told: list[Event] = []
    for start, end in pairwise([0, *sorted(cut for cut in cuts if cut < len(stream)), len(stream)]):
        most = data.draw(st.integers(1, 5))
        told += some.receive_data(stream[start:end], most)
        while some.has_unread and data.draw(st.integers(0, 3)):
            told += some.receive_data(b"", most)
    while some.has_unread:
        told += some.receive_data(b"", 1)
    assert told == events_of(stream, cuts, whole)
    assert (some.state, some.close_sent, some.fault) == (whole.state, whole.close_sent, whole.fault)
    if role is Role.SERVER:
        assert some.data_to_send() == whole.data_to_send()


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
    assert session.has_unread
    assert len(stream) * 0.8 < session.held_bytes <= len(stream), "the rest is kept as it came"
    told = 0
    while True:
        assert 1 <= len(events) <= 20 or not told
        assert sum(len(event.payload) for event in events if isinstance(event, Message)) < 20 * 1024 + 500_001
        told += len(events)
        if not session.has_unread:
            break
        events = session.receive_data(b"", 20)
    assert told == (50 if len(stream) > 20_000 else 500)
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


@given(payload=st.binary(min_size=1, max_size=5000), first=st.integers(1, 5000), sizes=st.lists(st.integers(1, 2000)))
def test_bytes_put_right_into_the_large_buffer_amount_to_the_same(payload: bytes, first: int, sizes: list[int]) -> None:
    frame = encode_frame(Opcode.BINARY, payload, mask_key=b"\x01\x02\x03\x04")
    session = Session(Role.SERVER, max_message_bytes=5000, relays=True)
    pieces = session.relay_data(frame[:first])
    position = min(first, len(frame))
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
def test_what_is_relayed_is_what_would_have_been_received(fast_lane: bool) -> None:
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
def test_what_is_held_of_a_message_is_told_until_it_is_whole(fast_lane: bool) -> None:
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
