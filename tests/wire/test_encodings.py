"""A room's messages in each form: bytes in, bytes out."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rawws.wire.deflate import FRAME_WORK_BYTES, MIN_DEFLATE_BYTES, STEP_BYTES
from rawws.wire.encodings import (
    AS_JSON,
    EVENTS,
    PLAIN,
    STEP_MESSAGES,
    WITH_IDS,
    as_json,
    boundary_behind,
    count_messages,
    encode,
    encode_alone,
    encode_in_steps,
    event_data,
    notice,
    rest_of_message,
    skip_messages,
    without_deflate,
    work_of,
)
from rawws.wire.event_stream import PREAMBLE
from rawws.wire.frames import Opcode, encode_frame, split_frames
from rawws.wire.message_ids import NumberedIds
from tests.sse import as_onmessage_gets, read_events

FIRST = b"9f2c41d7-41"


def ids() -> Iterator[bytes]:
    return NumberedIds("9f2c41d7").labels(41)


TEXTS = encode_frame(Opcode.TEXT, b"hello") + encode_frame(Opcode.TEXT, b"you")


def test_rawws_id_v1_puts_a_line_with_the_id_before_the_payload() -> None:
    assert [bytes(payload) for _, payload in split_frames(encode(TEXTS, WITH_IDS, ids()))] == [
        b'{"id":"9f2c41d7-41"}\nhello',
        b'{"id":"9f2c41d7-42"}\nyou',
    ]


def test_binary_stays_binary_with_an_id() -> None:
    ((header, payload),) = split_frames(encode(encode_frame(Opcode.BINARY, b"\x00\n\xff"), WITH_IDS, ids()))
    assert header.opcode == Opcode.BINARY
    assert bytes(payload) == b'{"id":"9f2c41d7-41"}\n\x00\n\xff'


def test_a_large_message_with_an_id_is_deflated_as_without() -> None:
    frames = encode_frame(Opcode.TEXT, b"x" * MIN_DEFLATE_BYTES)
    ((header, payload),) = split_frames(encode(frames, WITH_IDS | 15, ids()))
    assert header.rsv1
    assert len(payload) < 100


def test_events_have_the_id_of_each_message() -> None:
    assert encode(TEXTS, EVENTS, ids()) == (
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
    stream = encode(encode_frame(Opcode.TEXT, payload), EVENTS, ids())
    assert read_events(stream) == [(*event, "9f2c41d7-41")]


def test_binary_is_an_event_in_base64() -> None:
    stream = encode(encode_frame(Opcode.BINARY, b"\x00\xff"), EVENTS, ids())
    assert stream == b"id: 9f2c41d7-41\nevent: binary\ndata: AP8=\n\n"


texts_of_any_kind = st.lists(
    st.text(max_size=20) | st.text("\r\n\0 :\ufeff\u2028\u2029\x85ab", max_size=20) | st.text("\r\n", max_size=200),
    max_size=6,
)


@given(texts_of_any_kind)
def test_9_2_6_onmessage_gets_any_text_with_its_line_ends_as_lf_and_nothing_else_lost(texts: list[str]) -> None:
    frames = b"".join(encode_frame(Opcode.TEXT, text.encode()) for text in texts)
    stream = encode(frames, EVENTS, NumberedIds("e").labels(1))
    assert "\r" not in stream.decode()
    assert read_events(PREAMBLE + stream) == [
        ("message", as_onmessage_gets(text), f"e-{number}") for number, text in enumerate(texts, 1)
    ]


def test_events_as_json_have_what_polling_has() -> None:
    frames = encode_frame(Opcode.TEXT, "a\r\nü\u2028".encode()) + encode_frame(Opcode.BINARY, b"\x00\r")
    assert encode(frames, EVENTS | AS_JSON, ids()) == (
        b'id: 9f2c41d7-41\ndata: {"id":"9f2c41d7-41","text":"a\\r\\n\xc3\xbc\\u2028"}\n\n'
        b'id: 9f2c41d7-42\ndata: {"id":"9f2c41d7-42","base64":"AA0="}\n\n'
    )


@given(texts=texts_of_any_kind, payload=st.binary(max_size=20))
def test_as_json_onmessage_gets_any_message_exactly(texts: list[str], payload: bytes) -> None:
    frames = [encode_frame(Opcode.TEXT, text.encode()) for text in texts]
    stream = encode(
        b"".join([*frames, encode_frame(Opcode.BINARY, payload)]), EVENTS | AS_JSON, NumberedIds("e").labels(1)
    )
    assert "\r" not in stream.decode()
    *of_texts, of_binary = read_events(PREAMBLE + stream)
    assert [(event.kind, json.loads(event.data), event.last_id) for event in of_texts] == [
        ("message", {"id": f"e-{number}", "text": text}, f"e-{number}") for number, text in enumerate(texts, 1)
    ]
    assert of_binary.kind == "message"
    assert base64.b64decode(json.loads(of_binary.data)["base64"]) == payload


@pytest.mark.parametrize("form", [PLAIN, WITH_IDS, EVENTS, EVENTS | AS_JSON])
@given(sizes=st.lists(st.integers(0, 300), min_size=1, max_size=5), data=st.data())
def test_what_completes_a_message_begun(form: int, sizes: list[int], data: st.DataObject) -> None:
    pieces = [
        encode(encode_frame(Opcode.TEXT, b"x" * size), form, NumberedIds("e").labels(number))
        for number, size in enumerate(sizes, 1)
    ]
    segment = b"".join(pieces)
    at = data.draw(st.integers(0, len(segment)))
    ends = [sum(map(len, pieces[:count])) for count in range(len(pieces) + 1)]
    boundary = next(end for end in ends if end >= at)
    assert boundary_behind(segment, at, form) == boundary
    assert rest_of_message(segment, at, form) == segment[at:boundary]
    assert count_messages(segment, boundary, form) == ends.index(boundary)


def test_what_is_not_a_message_is_told_to_those_who_can_be_told() -> None:
    assert notice({"skipped": 3}, PLAIN) == b""
    assert notice({"skipped": 3}, EVENTS) == b"event: skipped\ndata: 3\n\n"
    assert notice({"skipped": 3}, EVENTS | AS_JSON) == b"event: skipped\ndata: 3\n\n"
    assert notice({"skipped": 3}, WITH_IDS) == encode_frame(Opcode.TEXT, b'{"skipped":3}\n')


@pytest.mark.parametrize(
    ("form", "text", "binary"),
    [
        (PLAIN, encode_frame(Opcode.TEXT, "é\r\nb".encode()), encode_frame(Opcode.BINARY, b"\xff")),
        (9, encode_frame(Opcode.TEXT, "é\r\nb".encode()), encode_frame(Opcode.BINARY, b"\xff")),
        (WITH_IDS, encode_frame(Opcode.TEXT, "{}\né\r\nb".encode()), encode_frame(Opcode.BINARY, b"{}\n\xff")),
        (EVENTS, "data: é\ndata: b\n\n".encode(), b"event: binary\ndata: /w==\n\n"),
        (EVENTS | AS_JSON, 'data: {"text":"é\\r\\nb"}\n\n'.encode(), b'data: {"base64":"/w=="}\n\n'),
    ],
)
def test_a_message_for_one_reader_alone_has_no_id_in_any_form(form: int, text: bytes, binary: bytes) -> None:
    assert encode_alone(Opcode.TEXT, "é\r\nb".encode(), form) == text
    assert encode_alone(Opcode.BINARY, b"\xff", form) == binary


def test_a_message_for_one_reader_alone_escapes_every_line_end_in_json() -> None:
    event = encode_alone(Opcode.TEXT, "a\u2028b".encode(), EVENTS | AS_JSON)
    assert event == b'data: {"text":"a\\u2028b"}\n\n'


def test_json_has_text_as_text_and_binary_in_base64() -> None:
    assert as_json(FIRST, Opcode.TEXT, 'ü "'.encode()) == '{"id":"9f2c41d7-41","text":"ü \\""}'.encode()
    assert as_json(FIRST, Opcode.BINARY, b"\x00") == b'{"id":"9f2c41d7-41","base64":"AA=="}'


def test_a_long_text_on_one_line_is_one_line_of_data() -> None:
    text = encode_frame(Opcode.TEXT, b"x" * 126)
    assert encode(text, EVENTS, ids()) == b"id: " + FIRST + b"\ndata: " + b"x" * 126 + b"\n\n"


@pytest.mark.parametrize(
    ("form", "ends"), [(PLAIN, [7, 12]), (WITH_IDS, [28, 54]), (EVENTS, [29, 56])], ids=["plain", "with ids", "events"]
)
def test_where_each_message_ends_in_a_form(form: int, ends: list[int]) -> None:
    data = encode(TEXTS, form, ids())
    assert len(data) == ends[1]
    places = [0, 1, ends[0] - 1, ends[0], ends[0] + 1, ends[1]]
    assert [boundary_behind(data, at, form) for at in places] == [0, *[ends[0]] * 3, *[ends[1]] * 2]
    assert rest_of_message(data, 1, form, committed_bytes=ends[0]) == data[1:]
    assert [count_messages(data, end, form) for end in (0, *ends)] == [0, 1, 2]


@pytest.mark.parametrize("form", [WITH_IDS, EVENTS, 15, WITH_IDS | 15], ids=["ids", "events", "deflated", "both"])
def test_many_messages_are_encoded_in_steps(form: int) -> None:
    count = 2 * STEP_MESSAGES + 1
    frames = encode_frame(Opcode.TEXT, b"x") * count
    pieces = list(encode_in_steps(frames, form, NumberedIds("e").labels(1)))
    assert b"".join(pieces) == encode(frames, form, NumberedIds("e").labels(1))
    assert len(pieces) >= 3
    if form is not EVENTS:
        assert max(count_messages(piece, len(piece), form) for piece in pieces) <= STEP_MESSAGES
    assert work_of(len(frames), count, form) >= count * FRAME_WORK_BYTES


@pytest.mark.parametrize("form", [EVENTS, EVENTS | AS_JSON])
@pytest.mark.parametrize("characters", ["x", "\n", "\r", "\r\n", "é\r\n", "\u2028\x85\x01", "😀\r", '"\\'])
@pytest.mark.parametrize("before", range(4))
@pytest.mark.parametrize("opcode", [Opcode.TEXT, Opcode.BINARY])
def test_a_large_message_is_an_event_in_many_steps(form: int, characters: str, before: int, opcode: Opcode) -> None:
    payload = ("x" * before + characters * 130_000).encode()
    frames = encode_frame(Opcode.TEXT, b"a") + encode_frame(opcode, payload) + encode_frame(Opcode.TEXT, b"b")
    pieces = list(encode_in_steps(frames, form, NumberedIds("e").labels(1)))
    assert max(map(len, pieces)) <= 8 * 120 * 1024
    one, large, two = b"".join(pieces).removesuffix(b"\n\n").split(b"\n\n")
    if form & AS_JSON:
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
    pieces = list(encode_in_steps(TEXTS + just + less + just + TEXTS, EVENTS, NumberedIds("e").labels(1)))
    assert pieces == [
        b"id: e-1\ndata: hello\n\nid: e-2\ndata: you\n\nid: e-3\ndata: " + b"x" * STEP_BYTES + b"\n\n",
        b"id: e-4\ndata: " + b"y" * (STEP_BYTES - 1) + b"\n\nid: e-5\ndata: " + b"x" * STEP_BYTES + b"\n\n",
        b"id: e-6\ndata: hello\n\nid: e-7\ndata: you\n\n",
    ]


def test_events_of_json_are_made_in_steps_and_escape_every_line_end() -> None:
    frames = encode_frame(Opcode.TEXT, "\u2028".encode() * (STEP_BYTES // 3)) * 3
    pieces = list(encode_in_steps(frames, EVENTS | AS_JSON, NumberedIds("e").labels(1)))
    assert [count_messages(piece, len(piece), EVENTS | AS_JSON) for piece in pieces] == [1, 1, 1, 0]
    stream = b"".join(pieces)
    assert "\u2028".encode() not in stream
    assert stream.count(b"\\u2028") == 3 * (STEP_BYTES // 3)


def test_every_reader_of_a_form_can_read_it_uncompressed() -> None:
    forms = [PLAIN, 9, 15, WITH_IDS, WITH_IDS | 15, EVENTS]
    assert list(map(without_deflate, forms)) == [PLAIN, PLAIN, PLAIN, WITH_IDS, WITH_IDS, EVENTS]


def test_plain_frames_are_no_work() -> None:
    assert list(encode_in_steps(TEXTS, PLAIN, ids())) == [TEXTS]
    assert work_of(1000, 1, PLAIN) == 0
    assert work_of(100_000, 1, WITH_IDS) < work_of(100_000, 1, EVENTS) == work_of(100_000, 1, WITH_IDS | 9)


@pytest.mark.parametrize("form", [PLAIN, WITH_IDS, EVENTS])
def test_where_a_reader_continues_after_some_messages(form: int) -> None:
    pieces = [
        encode(encode_frame(Opcode.TEXT, text), form, NumberedIds("e").labels(number))
        for number, text in enumerate([b"one", b"", b"\n\n", b"x" * 200], 1)
    ]
    data = b"".join(pieces)
    assert [skip_messages(data, count, form) for count in range(5)] == [len(b"".join(pieces[:n])) for n in range(5)]
