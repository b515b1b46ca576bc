"""The fast lane: what it takes, what it leaves to wsproto, and that the two amount to the same (RFC 6455 §5).

For any bytes in any chunks, that is, in both roles, with and without compression. ``test_session_lanes.py`` has what a
session does with it.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rawws.wire import frames
from rawws.wire.events import Event, Message, PingReceived, PongReceived
from rawws.wire.fast_reader import INCOMPLETE_BYTES, FastReader
from rawws.wire.frames import FIN, RSV1, RSV2, Opcode, encode_frame
from rawws.wire.recent_frames import describe_recent_frames
from rawws.wire.role import Role
from rawws.wire.session import Session
from tests.effort import examples
from tests.wire.helpers import MASK_KEY, both_roles, every_split, from_peer

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
@settings(max_examples=examples(300))
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
@settings(max_examples=examples(300))
def test_it_makes_no_difference_how_much_is_asked_for_at_a_time(
    role: Role, data: st.DataObject, deflated: bool, fast_lane: bool, shown: bool
) -> None:
    stream = data.draw(st.one_of(streams(role), streams(role), st.binary(max_size=300)))
    cuts = data.draw(st.lists(st.integers(0, max(len(stream), 1)), max_size=6))
    whole, some = (session_of(role, deflate=deflated, fast_lane=fast_lane) for _ in range(2))
    if shown:
        some.on_frame = lambda *_: None
    returned: list[Event] = []
    for start, end in pairwise([0, *sorted(cut for cut in cuts if cut < len(stream)), len(stream)]):
        most = data.draw(st.integers(1, 5))
        returned += some.receive_data(stream[start:end], most)
        while some.unread and data.draw(st.integers(0, 3)):
            returned += some.receive_data(b"", most)
    while some.unread:
        returned += some.receive_data(b"", 1)
    assert returned == events_of(stream, cuts, whole)
    assert (some.state, some.close_sent, some.fault) == (whole.state, whole.close_sent, whole.fault)
    if role is Role.SERVER:
        assert some.data_to_send() == whole.data_to_send()


@pytest.mark.parametrize("deflated", [False, True])
def test_reading_stops_where_there_is_as_much_as_was_asked_for(deflated: bool) -> None:
    reader = FastReader(Role.SERVER, 10_000, inflates=True, relays=False, takes_pings=True)
    payload = deflate(bytes(3000)) if deflated else b"Hello"
    frame = encode_frame(Opcode.BINARY, payload, rsv=RSV1 if deflated else 0, mask_key=MASK_KEY)
    returned: list[Any] = []
    assert reader.read(frame * 5, returned, 3) is None
    assert len(returned) == (1 if deflated else 3), "to which each KiB counts that was inflated"
    assert reader.unread == frame * (5 - len(returned))
    assert reader.held_bytes == len(reader.unread)
    assert reader.is_idle, "at a frame boundary"


# Frames that it reads


def reader(
    our_role: Role = Role.SERVER, *, inflates: bool = False, relays: bool = False, takes_pings: bool = True
) -> FastReader:
    return FastReader(our_role, 70_000, inflates=inflates, relays=relays, takes_pings=takes_pings)


def from_them(our_role: Role, opcode: int, payload: bytes, *, rsv: int = 0) -> bytes:
    return encode_frame(opcode, payload, rsv=rsv, mask_key=MASK_KEY if our_role is Role.SERVER else None)


def read(fast: FastReader, chunks: Iterable[bytes]) -> list[Any]:
    """Return what it makes of chunks all of which it is to take."""
    out: list[Any] = []
    for chunk in chunks:
        assert fast.read(chunk, out) is None
    return out


def some_splits(data: bytes) -> Iterator[list[bytes]]:
    """Every split of a little data; of much the ones that a header and a boundary of a few KiB make."""
    if len(data) < 200:
        yield from every_split(data)
        return
    yield [data]
    for size in (3, 1000, 4096, 65_536):
        yield [data[start : start + size] for start in range(0, len(data), size)]


@both_roles
@pytest.mark.parametrize("size", [0, 1, 2, 3, 4, 125, 126, 1024, 1025, 65_535, 65_536])
def test_5_2_whole_messages_of_any_size_are_taken_in_every_split(our_role: Role, size: int) -> None:
    texts = ["x" * size, ("é" * size)[: size // 2]]
    data = b"".join(from_them(our_role, Opcode.TEXT, text.encode()) for text in texts)
    data += from_them(our_role, Opcode.BINARY, b"\xff" * size)
    for chunks in some_splits(data):
        fast = reader(our_role)
        messages = [*(Message(Opcode.TEXT, text.encode()) for text in texts), Message(Opcode.BINARY, b"\xff" * size)]
        assert read(fast, chunks) == messages
        assert (fast.is_idle, fast.held_bytes) == (True, 0)


def test_a_server_relays_them_as_frames_and_its_pongs_are_told_to_nobody() -> None:
    said = [
        (Opcode.TEXT, b"x" * 125),
        (Opcode.TEXT, b"x" * 126),
        (Opcode.BINARY, b"\xff"),
        (Opcode.BINARY, b"z" * 5000),
    ]
    data = b"".join(from_them(Role.SERVER, opcode, payload) for opcode, payload in said)
    for chunks in some_splits(data):
        fast = reader(relays=True)
        assert read(fast, [from_them(Role.SERVER, Opcode.PONG, b"p")]) == []
        assert b"".join(read(fast, chunks)) == b"".join(encode_frame(opcode, payload) for opcode, payload in said)


@both_roles
@pytest.mark.parametrize("relays", [False, True], ids=["told", "relayed"])
def test_5_5_2_pings_are_put_aside_for_who_answers_them(our_role: Role, relays: bool) -> None:
    fast = reader(our_role, relays=relays)
    frames = [(Opcode.PING, b"1"), (Opcode.PONG, b"2"), (Opcode.PING, b"p" * 125)]
    returned = read(fast, [b"".join(from_them(our_role, *frame) for frame in frames)])
    assert fast.pings == [b"1", b"p" * 125]
    assert returned == ([] if relays else [PingReceived(b"1"), PongReceived(b"2"), PingReceived(b"p" * 125)])


@both_roles
@pytest.mark.parametrize("payload", [b"", b"Hello", "é".encode() * 2000], ids=["empty", "ascii", "much"])
@pytest.mark.parametrize("opcode", [Opcode.TEXT, Opcode.BINARY])
def test_7692_6_2_a_whole_compressed_message_is_taken_where_that_was_agreed_on(
    our_role: Role, opcode: Opcode, payload: bytes
) -> None:
    frame = from_them(our_role, opcode, deflate(payload), rsv=RSV1)
    assert read(reader(our_role, inflates=True), [frame + frame]) == [Message(opcode, payload)] * 2
    out: list[Any] = []
    assert reader(our_role).read(frame, out) == frame, "where it wasn't, that is wsproto's to say"
    assert out == []


# Frames that it leaves to wsproto


NOT_UTF_8, BOMB = deflate(b"\xff\xfe\xfd"), deflate(bytes(70_001))

LEFT = {
    "a fragment": ("0103", b"Hel"),
    "a continuation": ("8003", b"lo!"),
    "a close": ("8802", b"\x03\xe8"),
    "a reserved bit": ("a105", b"Hello"),
    "a reserved opcode": ("8300", b""),
    "a ping in fragments": ("0900", b""),
    "a ping of 126 bytes": ("897e007e", b"p" * 126),
    "a compressed ping": ("c905", b"Hello"),
    "5 in two bytes": ("817e0005", b"Hello"),
    "5 in eight bytes": ("827f0000000000000005", b"Hello"),
    "over the limit": ("827f0000000000011171", b""),
    "over the limit, and there": ("827f0000000000011171", b"z" * 70_001),
    "text that is not UTF-8": ("8103", b"a\xff\xff"),
    "a long text that is not UTF-8": ("817e0500", b"x" * 1278 + b"\xc3\x28"),
    "text that ends inside a character": ("8102", b"\xe2\x82"),
    "no deflated data": ("c103", b"\xff\xff\xff"),
    "deflated text that is not UTF-8": (f"c1{len(NOT_UTF_8):02x}", NOT_UTF_8),
    "deflated, and over the limit": (f"c2{len(BOMB):02x}", BOMB),
}


@both_roles
@pytest.mark.parametrize(("header", "payload"), LEFT.values(), ids=LEFT)
def test_a_frame_that_is_not_whole_and_plain_is_left_untouched_from_its_first_byte_on(
    our_role: Role, header: str, payload: bytes
) -> None:
    before = from_them(our_role, Opcode.TEXT, b"before")
    frame, behind = from_peer(our_role, header, payload), from_them(our_role, Opcode.TEXT, b"behind")
    fast = reader(our_role, inflates=True)
    out: list[Any] = []
    assert fast.read(before + frame + behind, out) == frame + behind
    assert out == [Message(Opcode.TEXT, b"before")]
    assert fast.is_idle

    # In pieces, too: what it had kept of the frame comes back as it stood on the wire.
    for size in (1, 1000):
        fast = reader(our_role, inflates=True)
        assert read(fast, [before]) == [Message(Opcode.TEXT, b"before")]
        for end in range(size, len(frame) + len(behind) + size, size):
            rest = fast.read((frame + behind)[end - size : end], out)
            if rest is not None:
                assert rest == (frame + behind)[:end]
                break
        else:
            pytest.fail("it was taken")
        assert (fast.is_idle, fast.held_bytes) == (True, 0)


@both_roles
def test_5_1_a_frame_with_the_wrong_masking_is_left(our_role: Role) -> None:
    wrong = from_them(our_role.other, Opcode.TEXT, b"Hello")
    for end in range(2, len(wrong) + 1):
        fast = reader(our_role)
        out: list[Any] = []
        assert fast.read(wrong[:end], out) == wrong[:end]
        assert out == []


def test_a_ping_whose_place_among_messages_matters_is_left() -> None:
    fast = reader(relays=True, takes_pings=False)
    ping, text = from_them(Role.SERVER, Opcode.PING, b"?"), from_them(Role.SERVER, Opcode.TEXT, b"a")
    out: list[Any] = []
    assert fast.read(text + ping + text, out) == ping + text
    assert b"".join(out) == encode_frame(Opcode.TEXT, b"a")
    assert fast.pings is None


@both_roles
@pytest.mark.parametrize("opcode", [Opcode.TEXT, Opcode.BINARY])
def test_an_incomplete_frame_is_returned_as_it_was_on_the_wire(our_role: Role, opcode: Opcode) -> None:
    frame = from_them(our_role, opcode, b"x" * 300)
    for end in range(1, len(frame)):
        fast = reader(our_role)
        assert read(fast, [frame[:end]]) == []
        assert not fast.is_idle
        assert fast.give_up() == frame[:end]
        assert (fast.is_idle, fast.held_bytes) == (True, 0)
        assert read(fast, [frame]) == [Message(opcode, b"x" * 300)], "and the next one is read like ever"


# Received right into its place


@both_roles
@pytest.mark.parametrize("opcode", [Opcode.TEXT, Opcode.BINARY])
def test_the_rest_of_a_large_message_may_be_received_into_its_buffer(our_role: Role, opcode: Opcode) -> None:
    payload = "0123é".encode() * 1000
    frame = from_them(our_role, opcode, payload)
    fast = reader(our_role)
    assert fast.large_buffer(1) is None, "nothing is awaited"
    assert read(fast, [frame[:2000]]) == []
    missing = len(frame) - 2000
    assert fast.large_buffer(missing + 1) is None
    out: list[Any] = []
    position = 2000
    while position < len(frame):
        assert out == []
        buffer = fast.large_buffer(1)
        assert buffer is not None
        with buffer:
            piece = frame[position : position + min(700, len(buffer))]
            buffer[: len(piece)] = piece
        position += len(piece)
        assert fast.received(len(piece), out) is None
    assert out == [Message(opcode, payload)]
    assert fast.is_idle
    assert describe_recent_frames(fast.recent_frames) == f"{opcode.name} of 6,000 bytes"


@both_roles
def test_8_1_bytes_in_the_buffer_that_are_not_utf_8_are_returned_as_they_were(our_role: Role) -> None:
    frame = from_them(our_role, Opcode.TEXT, b"x" * 600 + b"\xff" * 600)
    fast = reader(our_role)
    assert read(fast, [frame[:500]]) == []
    buffer = fast.large_buffer(1)
    assert buffer is not None
    with buffer:
        buffer[:200] = frame[500:700]
    out: list[Any] = []
    assert fast.received(200, out) == frame[:700]
    assert out == []
    assert fast.is_idle


def test_a_frame_that_has_begun_takes_its_buffer_and_its_objects() -> None:
    session = Session(Role.CLIENT, max_message_bytes=LIMIT)
    session.receive_data(encode_frame(Opcode.BINARY, bytes(100))[:-1])
    assert session._fast is not None
    assert (session._fast.held_bytes, session._fast.own_bytes) == (100, INCOMPLETE_BYTES)
    session.receive_data(b"x")
    assert (session._fast.held_bytes, session._fast.own_bytes) == (0, 0)
