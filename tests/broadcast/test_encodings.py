"""A room's messages in each encoding of WebSockets: bytes in, bytes out."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rawws.broadcast.encodings import BY_SUBPROTOCOL, PLAIN, STEP_MESSAGES, SUBPROTOCOL, WITH_IDS, Encoding
from rawws.broadcast.message_ids import NumberedIds
from rawws.wire.deflate import FRAME_WORK_BYTES, MIN_DEFLATE_BYTES
from rawws.wire.frames import Opcode, encode_frame, split_frames


def ids() -> Iterator[bytes]:
    return NumberedIds("9f2c41d7").labels(41)


TEXTS = encode_frame(Opcode.TEXT, b"hello") + encode_frame(Opcode.TEXT, b"you")


def test_rawws_id_v1_puts_a_line_with_the_id_before_the_payload() -> None:
    assert [bytes(payload) for _, payload in split_frames(WITH_IDS.encode(TEXTS, ids()))] == [
        b'{"id":"9f2c41d7-41"}\nhello',
        b'{"id":"9f2c41d7-42"}\nyou',
    ]


def test_binary_stays_binary_with_an_id() -> None:
    ((header, payload),) = split_frames(WITH_IDS.encode(encode_frame(Opcode.BINARY, b"\x00\n\xff"), ids()))
    assert header.opcode == Opcode.BINARY
    assert bytes(payload) == b'{"id":"9f2c41d7-41"}\n\x00\n\xff'


def test_a_large_message_with_an_id_is_deflated_as_without() -> None:
    frames = encode_frame(Opcode.TEXT, b"x" * MIN_DEFLATE_BYTES)
    ((header, payload),) = split_frames(WITH_IDS.deflated(15).encode(frames, ids()))
    assert header.rsv1
    assert len(payload) < 100


@pytest.mark.parametrize("encoding", [PLAIN, WITH_IDS])
@given(sizes=st.lists(st.integers(0, 300), min_size=1, max_size=5), data=st.data())
def test_the_rest_of_a_partial_message_completes_it(encoding: Encoding, sizes: list[int], data: st.DataObject) -> None:
    pieces = [
        encoding.encode(encode_frame(Opcode.TEXT, b"x" * size), NumberedIds("e").labels(number))
        for number, size in enumerate(sizes, 1)
    ]
    segment = b"".join(pieces)
    at = data.draw(st.integers(0, len(segment)))
    ends = [sum(map(len, pieces[:count])) for count in range(len(pieces) + 1)]
    boundary = next(end for end in ends if end >= at)
    assert encoding.next_boundary(segment, at) == boundary
    assert encoding.rest_of_message(segment, at) == segment[at:boundary]
    assert encoding.count_messages(segment, boundary) == ends.index(boundary)


def test_a_control_is_sent_to_the_readers_whose_encoding_has_controls() -> None:
    assert PLAIN.encode_control({"skipped": 3}) == PLAIN.deflated(15).encode_control({"skipped": 3}) == b""
    for encoding in (WITH_IDS, WITH_IDS.deflated(9)):
        assert encoding.encode_control({"skipped": 3}) == encode_frame(Opcode.TEXT, b'{"skipped":3}\n')
    encodings = [PLAIN, PLAIN.deflated(15), WITH_IDS, WITH_IDS.deflated(15)]
    assert [encoding.has_controls for encoding in encodings] == [False, False, True, True]


@pytest.mark.parametrize(
    ("encoding", "text", "binary"),
    [
        (PLAIN, encode_frame(Opcode.TEXT, "é\r\nb".encode()), encode_frame(Opcode.BINARY, b"\xff")),
        (PLAIN.deflated(9), encode_frame(Opcode.TEXT, "é\r\nb".encode()), encode_frame(Opcode.BINARY, b"\xff")),
        (WITH_IDS, encode_frame(Opcode.TEXT, "{}\né\r\nb".encode()), encode_frame(Opcode.BINARY, b"{}\n\xff")),
    ],
)
def test_a_message_for_one_reader_alone_has_no_id(encoding: Encoding, text: bytes, binary: bytes) -> None:
    assert encoding.encode_alone(Opcode.TEXT, "é\r\nb".encode()) == text
    assert encoding.encode_alone(Opcode.BINARY, b"\xff") == binary


@pytest.mark.parametrize("window_bits", [0, 15])
def test_a_reader_is_greeted_with_its_position_if_its_encoding_has_controls(window_bits: int) -> None:
    plain, with_ids = PLAIN.deflated(window_bits), WITH_IDS.deflated(window_bits)
    gap = {"since": "e-1", "after": "e-3"}
    assert plain.greeting("", "e-3", None) == plain.greeting("", "e-3", gap) == b""
    assert plain.greeting("hello", "e-3", None) == encode_frame(Opcode.TEXT, b"hello")
    at, hello = encode_frame(Opcode.TEXT, b'{"at":"e-3"}\n'), encode_frame(Opcode.TEXT, b"{}\nhello")
    assert with_ids.greeting("", "e-3", None) == at
    assert with_ids.greeting("hello", "e-3", None) == at + hello
    gap_json = b'{"at":"e-3","gap":{"since":"e-1","after":"e-3"}}\n'
    assert with_ids.greeting("hello", "e-3", gap) == encode_frame(Opcode.TEXT, gap_json) + hello


@pytest.mark.parametrize(("encoding", "ends"), [(PLAIN, [7, 12]), (WITH_IDS, [28, 54])], ids=["plain", "with ids"])
def test_where_each_message_ends_in_an_encoding(encoding: Encoding, ends: list[int]) -> None:
    data = encoding.encode(TEXTS, ids())
    assert len(data) == ends[1]
    places = [0, 1, ends[0] - 1, ends[0], ends[0] + 1, ends[1]]
    assert [encoding.next_boundary(data, at) for at in places] == [0, *[ends[0]] * 3, *[ends[1]] * 2]
    assert encoding.rest_of_message(data, 1, committed_bytes=ends[0]) == data[1:]
    assert [encoding.count_messages(data, end) for end in (0, *ends)] == [0, 1, 2]


@pytest.mark.parametrize("encoding", [WITH_IDS, PLAIN.deflated(15), WITH_IDS.deflated(15)], ids=str)
def test_many_messages_are_encoded_in_steps(encoding: Encoding) -> None:
    count = 2 * STEP_MESSAGES + 1
    frames = encode_frame(Opcode.TEXT, b"x") * count
    pieces = list(encoding.encode_in_steps(frames, NumberedIds("e").labels(1)))
    assert b"".join(pieces) == encoding.encode(frames, NumberedIds("e").labels(1))
    assert len(pieces) >= 3
    assert max(encoding.count_messages(piece, len(piece)) for piece in pieces) <= STEP_MESSAGES
    assert encoding.work(len(frames), count) >= count * FRAME_WORK_BYTES


def test_every_reader_can_read_its_encoding_uncompressed() -> None:
    encodings = [PLAIN, PLAIN.deflated(9), PLAIN.deflated(15), WITH_IDS, WITH_IDS.deflated(15)]
    uncompressed = [encoding.uncompressed for encoding in encodings]
    assert uncompressed == [PLAIN, PLAIN, PLAIN, WITH_IDS, WITH_IDS]
    assert [encoding.window_bits for encoding in encodings] == [0, 9, 15, 0, 15]


def test_there_is_one_object_of_each_encoding() -> None:
    assert PLAIN.deflated(0) is PLAIN
    assert WITH_IDS.deflated(15) is WITH_IDS.deflated(15)
    encodings = {PLAIN.deflated(9), PLAIN.deflated(15), WITH_IDS.deflated(9), WITH_IDS.deflated(15), PLAIN, WITH_IDS}
    assert len(encodings) == len(set(map(str, encodings))) == 6
    assert {encoding.label for encoding in encodings} == {"websocket"}
    assert not any(encoding.is_one_way for encoding in encodings)


def test_the_subprotocol_decides_whether_messages_have_ids() -> None:
    assert BY_SUBPROTOCOL == {None: PLAIN, SUBPROTOCOL: WITH_IDS}


def test_plain_frames_are_no_work() -> None:
    assert list(PLAIN.encode_in_steps(TEXTS, ids())) == [TEXTS]
    assert PLAIN.work(1000, 1) == 0
    assert WITH_IDS.work(100_000, 1) < PLAIN.deflated(15).work(100_000, 1) == WITH_IDS.deflated(9).work(100_000, 1)


@pytest.mark.parametrize("encoding", [PLAIN, WITH_IDS])
def test_where_a_reader_continues_after_some_messages(encoding: Encoding) -> None:
    pieces = [
        encoding.encode(encode_frame(Opcode.TEXT, text), NumberedIds("e").labels(number))
        for number, text in enumerate([b"one", b"", b"\n\n", b"x" * 200], 1)
    ]
    data = b"".join(pieces)
    assert [encoding.skip_messages(data, count) for count in range(5)] == [len(b"".join(pieces[:n])) for n in range(5)]
