"""A room's messages in each encoding of HTTP responses: bytes in, bytes out."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rawws.broadcast.encodings import STEP_MESSAGES, WITH_IDS, Encoding
from rawws.broadcast.json_messages import as_json
from rawws.broadcast.message_ids import NumberedIds
from rawws.broadcast.query import RoomQuery
from rawws.broadcast.stream_encodings import EVENTS, JSON_EVENTS, PREAMBLE, RETRY_MS, event_data
from rawws.wire.deflate import FRAME_WORK_BYTES, STEP_BYTES
from rawws.wire.frames import Opcode, encode_frame
from tests.sse import as_onmessage_gets, read_events

FIRST = b"9f2c41d7-41"


def ids() -> Iterator[bytes]:
    return NumberedIds("9f2c41d7").labels(41)


TEXTS = encode_frame(Opcode.TEXT, b"hello") + encode_frame(Opcode.TEXT, b"you")


def test_events_have_the_id_of_each_message() -> None:
    assert EVENTS.encode(TEXTS, ids()) == (
        b"id: 9f2c41d7-41\ndata: hello\n\n"  # readable on the wire
        b"id: 9f2c41d7-42\ndata: you\n\n"
    )


@pytest.mark.parametrize(
    ("payload", "event"),
    [
        (b"", ("message", "")),
        (b" two  spaces ", ("message", " two  spaces ")),
        (b"a\nb\n\nc\n", ("message", "a\nb\n\nc\n")),
        ("grüß dich".encode(), ("message", "grüß dich")),
        (b"id: 7\ndata: forged\n\n", ("message", "id: 7\ndata: forged\n\n")),
        (b"a\rb\r\n", ("message", "a\nb\n")),
        (b"\r", ("message", "\n")),
        (b"a\n\r\r\nb", ("message", "a\n\n\nb")),
        (b": no comment", ("message", ": no comment")),
        (b"\0", ("message", "\0")),
        ("\ufeffnot the stream's mark".encode(), ("message", "\ufeffnot the stream's mark")),
        (
            "no\u2028line\u2029ends\x85here\x0b\x0c\x1c\x1e".encode(),
            ("message", "no\u2028line\u2029ends\x85here\x0b\x0c\x1c\x1e"),
        ),
    ],
)
def test_9_2_6_a_text_arrives_as_it_was_but_for_its_line_ends(payload: bytes, event: tuple[str, str]) -> None:
    stream = EVENTS.encode(encode_frame(Opcode.TEXT, payload), ids())
    assert read_events(stream) == [(*event, "9f2c41d7-41")]


def test_binary_is_an_event_in_base64() -> None:
    stream = EVENTS.encode(encode_frame(Opcode.BINARY, b"\x00\xff"), ids())
    assert stream == b"id: 9f2c41d7-41\nevent: binary\ndata: AP8=\n\n"


texts_of_any_kind = st.lists(
    st.text(max_size=20) | st.text("\r\n\0 :\ufeff\u2028\u2029\x85ab", max_size=20) | st.text("\r\n", max_size=200),
    max_size=6,
)


@given(texts_of_any_kind)
def test_9_2_6_onmessage_gets_any_text_with_its_line_ends_as_lf_and_nothing_else_lost(texts: list[str]) -> None:
    frames = b"".join(encode_frame(Opcode.TEXT, text.encode()) for text in texts)
    stream = EVENTS.encode(frames, NumberedIds("e").labels(1))
    assert "\r" not in stream.decode()
    assert read_events(PREAMBLE + stream) == [
        ("message", as_onmessage_gets(text), f"e-{number}") for number, text in enumerate(texts, 1)
    ]


def test_events_as_json_have_the_fields_of_a_poll() -> None:
    frames = encode_frame(Opcode.TEXT, "a\r\nü\u2028".encode()) + encode_frame(Opcode.BINARY, b"\x00\r")
    assert JSON_EVENTS.encode(frames, ids()) == (
        b'id: 9f2c41d7-41\ndata: {"id":"9f2c41d7-41","text":"a\\r\\n\xc3\xbc\\u2028"}\n\n'
        b'id: 9f2c41d7-42\ndata: {"id":"9f2c41d7-42","base64":"AA0="}\n\n'
    )


@given(texts=texts_of_any_kind, payload=st.binary(max_size=20))
def test_as_json_onmessage_gets_any_message_exactly(texts: list[str], payload: bytes) -> None:
    frames = [encode_frame(Opcode.TEXT, text.encode()) for text in texts]
    stream = JSON_EVENTS.encode(b"".join([*frames, encode_frame(Opcode.BINARY, payload)]), NumberedIds("e").labels(1))
    assert "\r" not in stream.decode()
    *of_texts, of_binary = read_events(PREAMBLE + stream)
    assert [(event.kind, json.loads(event.data), event.last_id) for event in of_texts] == [
        ("message", {"id": f"e-{number}", "text": text}, f"e-{number}") for number, text in enumerate(texts, 1)
    ]
    assert of_binary.kind == "message"
    assert base64.b64decode(json.loads(of_binary.data)["base64"]) == payload


@pytest.mark.parametrize("encoding", [EVENTS, JSON_EVENTS])
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


@pytest.mark.parametrize("encoding", [EVENTS, JSON_EVENTS])
def test_a_control_is_an_event_with_a_name(encoding: Encoding) -> None:
    assert encoding.has_controls
    assert encoding.encode_control({"skipped": 3}) == b"event: skipped\ndata: 3\n\n"


@pytest.mark.parametrize(
    ("encoding", "text", "binary"),
    [
        (EVENTS, "data: é\ndata: b\n\n".encode(), b"event: binary\ndata: /w==\n\n"),
        (JSON_EVENTS, 'data: {"text":"é\\r\\nb"}\n\n'.encode(), b'data: {"base64":"/w=="}\n\n'),
    ],
)
def test_a_message_for_one_reader_alone_has_no_id(encoding: Encoding, text: bytes, binary: bytes) -> None:
    assert encoding.encode_alone(Opcode.TEXT, "é\r\nb".encode()) == text
    assert encoding.encode_alone(Opcode.BINARY, b"\xff") == binary


def test_a_message_for_one_reader_alone_escapes_every_line_end_in_json() -> None:
    event = JSON_EVENTS.encode_alone(Opcode.TEXT, "a\u2028b".encode())
    assert event == b'data: {"text":"a\\u2028b"}\n\n'


def test_a_long_text_on_one_line_is_one_line_of_data() -> None:
    text = encode_frame(Opcode.TEXT, b"x" * 126)
    assert EVENTS.encode(text, ids()) == b"id: " + FIRST + b"\ndata: " + b"x" * 126 + b"\n\n"


@pytest.mark.parametrize("encoding", [EVENTS, JSON_EVENTS])
def test_9_2_6_a_reader_is_greeted_with_the_time_of_reconnection_and_its_position(encoding: Encoding) -> None:
    assert PREAMBLE == b"retry: %d\n" % RETRY_MS
    assert encoding.greeting("hello", "e-3", None) == PREAMBLE + b"id: e-3\n\n"
    gap = {"since": "e-1", "after": "e-3"}
    expected = PREAMBLE + b'id: e-3\n\nevent: gap\ndata: {"since":"e-1","after":"e-3"}\n\n'
    assert encoding.greeting("", "e-3", gap) == expected


@pytest.mark.parametrize("encoding", [EVENTS, JSON_EVENTS])
def test_events_are_read_over_http_and_are_not_compressed(encoding: Encoding) -> None:
    assert (encoding.label, encoding.is_one_way, encoding.window_bits) == ("events", True, 0)
    assert encoding.uncompressed is encoding
    assert encoding.work(100_000, 1) == WITH_IDS.deflated(15).work(100_000, 1) > WITH_IDS.work(100_000, 1)


def test_the_query_decides_whether_events_are_json() -> None:
    assert EVENTS.content_type == JSON_EVENTS.content_type == "text/event-stream"
    assert [encoding.suits(RoomQuery()) for encoding in (EVENTS, JSON_EVENTS)] == [True, False]
    assert JSON_EVENTS.suits(RoomQuery(wants_json=True))


def test_where_each_message_ends_in_events() -> None:
    ends = [29, 56]
    data = EVENTS.encode(TEXTS, ids())
    assert len(data) == ends[1]
    places = [0, 1, ends[0] - 1, ends[0], ends[0] + 1, ends[1]]
    assert [EVENTS.next_boundary(data, at) for at in places] == [0, *[ends[0]] * 3, *[ends[1]] * 2]
    assert EVENTS.rest_of_message(data, 1, committed_bytes=ends[0]) == data[1:]
    assert [EVENTS.count_messages(data, end) for end in (0, *ends)] == [0, 1, 2]


@pytest.mark.parametrize("encoding", [EVENTS, JSON_EVENTS])
def test_many_messages_are_encoded_in_steps(encoding: Encoding) -> None:
    count = 2 * STEP_MESSAGES + 1
    frames = encode_frame(Opcode.TEXT, b"x") * count
    pieces = list(encoding.encode_in_steps(frames, NumberedIds("e").labels(1)))
    assert b"".join(pieces) == encoding.encode(frames, NumberedIds("e").labels(1))
    assert len(pieces) >= 3
    assert encoding.work(len(frames), count) >= count * FRAME_WORK_BYTES


@pytest.mark.parametrize("encoding", [EVENTS, JSON_EVENTS])
@pytest.mark.parametrize("characters", ["x", "\n", "\r", "\r\n", "é\r\n", "\u2028\x85\x01", "😀\r", '"\\'])
@pytest.mark.parametrize("before", range(4))
@pytest.mark.parametrize("opcode", [Opcode.TEXT, Opcode.BINARY])
def test_a_large_message_is_an_event_in_many_steps(
    encoding: Encoding, characters: str, before: int, opcode: Opcode
) -> None:
    payload = ("x" * before + characters * 130_000).encode()
    frames = encode_frame(Opcode.TEXT, b"a") + encode_frame(opcode, payload) + encode_frame(Opcode.TEXT, b"b")
    pieces = list(encoding.encode_in_steps(frames, NumberedIds("e").labels(1)))
    assert max(map(len, pieces)) <= 8 * 120 * 1024
    one, large, two = b"".join(pieces).removesuffix(b"\n\n").split(b"\n\n")
    if encoding is JSON_EVENTS:
        expected = b"id: e-2\ndata: " + as_json(b"e-2", opcode, payload)
        for character, escaped in (("\x85", b"\\u0085"), ("\u2028", b"\\u2028")):
            expected = expected.replace(character.encode(), escaped)
        assert (one, large, two) == (
            b'id: e-1\ndata: {"id":"e-1","text":"a"}',
            expected,
            b'id: e-3\ndata: {"id":"e-3","text":"b"}',
        )
    else:
        expected = (b"id: e-2\n" + event_data(opcode, payload)).removesuffix(b"\n\n")
        assert (one, large, two) == (b"id: e-1\ndata: a", expected, b"id: e-3\ndata: b")


def test_an_event_that_is_the_work_of_a_step_ends_the_step() -> None:
    just = encode_frame(Opcode.TEXT, b"x" * STEP_BYTES)
    less = encode_frame(Opcode.TEXT, b"y" * (STEP_BYTES - 1))
    pieces = list(EVENTS.encode_in_steps(TEXTS + just + less + just + TEXTS, NumberedIds("e").labels(1)))
    assert pieces == [
        b"id: e-1\ndata: hello\n\nid: e-2\ndata: you\n\nid: e-3\ndata: " + b"x" * STEP_BYTES + b"\n\n",
        b"id: e-4\ndata: " + b"y" * (STEP_BYTES - 1) + b"\n\nid: e-5\ndata: " + b"x" * STEP_BYTES + b"\n\n",
        b"id: e-6\ndata: hello\n\nid: e-7\ndata: you\n\n",
    ]


def test_events_of_json_are_made_in_steps_and_escape_every_line_end() -> None:
    frames = encode_frame(Opcode.TEXT, "\u2028".encode() * (STEP_BYTES // 3)) * 3
    pieces = list(JSON_EVENTS.encode_in_steps(frames, NumberedIds("e").labels(1)))
    assert [JSON_EVENTS.count_messages(piece, len(piece)) for piece in pieces] == [1, 1, 1, 0]
    stream = b"".join(pieces)
    assert "\u2028".encode() not in stream
    assert stream.count(b"\\u2028") == 3 * (STEP_BYTES // 3)


@pytest.mark.parametrize("encoding", [EVENTS, JSON_EVENTS])
def test_where_a_reader_continues_after_some_messages(encoding: Encoding) -> None:
    pieces = [
        encoding.encode(encode_frame(Opcode.TEXT, text), NumberedIds("e").labels(number))
        for number, text in enumerate([b"one", b"", b"\n\n", b"x" * 200], 1)
    ]
    data = b"".join(pieces)
    assert [encoding.skip_messages(data, count) for count in range(5)] == [len(b"".join(pieces[:n])) for n in range(5)]
