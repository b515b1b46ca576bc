"""Records of what was seen: a line of JSON each, from which the same frames and heads come back."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rawws.errors import UsageError
from rawws.inspection.records import (
    Record,
    Recorded,
    checks_record,
    frame_bytes,
    frame_record,
    from_line,
    head_record,
    to_line,
)
from rawws.wire.client_handshake import ClientHandshake, examine_answer
from rawws.wire.frame_recorder import FrameRecorder
from rawws.wire.frames import Frame, Opcode, encode_frame, parse_header
from rawws.wire.handshake import Accept, examine
from rawws.wire.messages import Headers, Request
from rawws.wire.origins import Origins
from rawws.wire.role import Role
from rawws.wire.uri import parse_uri

SAMPLE_KEY = "dGhlIHNhbXBsZSBub25jZQ=="  # of RFC 6455 §1.3


def seen(raw: bytes, *, shown_bytes: int = 125) -> Frame:
    """A frame as a recorder keeps it."""
    header = parse_header(raw)
    assert header is not None
    recorder = FrameRecorder(header, shown_bytes)
    recorder.add(raw[len(header.raw) :])
    return recorder.frame()


def line_of(record: Record, **changes: Any) -> str:
    return to_line(record | changes, at=1.0, connection=1)


@pytest.mark.parametrize("sender", list(Role), ids=lambda role: role.name.lower())
@given(
    opcode=st.integers(0, 15),
    payload=st.binary(max_size=130) | st.integers(180, 70_000).map(bytes),
    rsv=st.sampled_from([0, 0x40, 0x30]),
    fin=st.booleans(),
    key=st.none() | st.binary(min_size=4, max_size=4),
)
def test_any_frame_is_read_as_it_was_written(
    sender: Role, opcode: int, payload: bytes, rsv: int, fin: bool, key: bytes | None
) -> None:
    raw = encode_frame(opcode, payload, fin=fin, rsv=rsv, mask_key=key)
    frame = seen(raw)
    line = to_line(frame_record(sender, frame), at=1_700_000_000.123456789, connection=7)
    recorded = from_line(line)
    assert (line.count("\n"), line[-1]) == (1, "\n")
    assert recorded == Recorded("frame", 1_700_000_000.123457, 7, sender, b"", frame, "")
    assert recorded.frame is not None
    assert frame_bytes(recorded.frame) == (raw if len(payload) <= 125 + 64 else None)


def test_5_7_the_masked_hello_has_its_mask_off_in_a_record_and_on_again_in_its_bytes() -> None:
    raw = bytes.fromhex("818537fa213d7f9f4d5158")
    record = frame_record(Role.CLIENT, seen(raw))
    assert record == {"kind": "frame", "sender": "client", "header": "818537fa213d", "payload": b"Hello".hex()}
    recorded = from_line(line_of(record))
    assert recorded.frame is not None
    assert frame_bytes(recorded.frame) == raw


def test_a_long_frame_is_recorded_by_its_ends_and_the_size_between_them() -> None:
    frame = seen(encode_frame(Opcode.TEXT, b"a" * 125 + b"-" * 1000 + b"z" * 64))
    record = frame_record(Role.SERVER, frame)
    assert (record["left_out"], record["tail"]) == (1000, b"z".hex() * 64)
    recorded = from_line(line_of(record))
    assert recorded.frame == frame
    assert frame_bytes(frame) is None, "what was left out can't be put back"


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"header": ""}, id="no header"),
        pytest.param({"header": "81"}, id="half a header"),
        pytest.param({"header": "810500"}, id="more than a header"),
        pytest.param({"header": "zz"}, id="a header that is not hex"),
        pytest.param({"payload": "00"}, id="less payload than the header says"),
        pytest.param({"payload": "00" * 6}, id="more payload than the header says"),
        pytest.param({"payload": "00" * 6, "left_out": -1}, id="less than nothing left out of it"),
        pytest.param({"left_out": 3}, id="something left out of a whole payload"),
        pytest.param({"payload": None}, id="a payload that is no text"),
        pytest.param({"sender": "proxy"}, id="a sender who is neither side"),
        pytest.param({"at": "noon"}, id="a time that is no number"),
        pytest.param({"connection": None}, id="a connection without a number"),
        pytest.param({"kind": "head", "head": 5}, id="a head that is no text"),
        pytest.param({"kind": "head", "head": "€"}, id="a head with a character that is no byte"),
    ],
)
def test_a_line_that_can_not_have_been_written_is_no_record(changes: dict[str, Any]) -> None:
    record = frame_record(Role.SERVER, seen(encode_frame(Opcode.TEXT, b"Hello")))
    assert from_line(line_of(record)).kind == "frame"
    with pytest.raises(UsageError, match="this is not a record"):
        from_line(line_of(record, **changes))


@pytest.mark.parametrize(
    "line", ["", "81 05", "[]", "7", "null", "{}", '{"kind":"open"}', '{"kind":"open","at":1}', "{"]
)
def test_any_other_line_is_told_with_its_beginning(line: str) -> None:
    with pytest.raises(UsageError) as raised:
        from_line(line + " " * 200 + "\n")
    assert str(raised.value).startswith(f"this is not a record: {line!r}: it ")


@pytest.mark.parametrize("member", ["header", "payload"])
def test_a_frame_without_its_header_or_payload_is_no_record_and_the_reason_names_it(member: str) -> None:
    record = frame_record(Role.SERVER, seen(encode_frame(Opcode.TEXT, b"Hello")))
    del record[member]
    with pytest.raises(UsageError, match=f": it has no '{member}'$"):
        from_line(line_of(record))


def test_a_line_that_is_nested_more_deeply_than_json_is_read_is_no_record() -> None:
    with pytest.raises(UsageError) as raised:
        from_line("[" * 100_000 + "\n")
    assert str(raised.value) == f"this is not a record: {'[' * 80!r}: it is nested too deeply"


@given(raw=st.binary(max_size=60))
def test_a_head_comes_back_byte_by_byte(raw: bytes) -> None:
    head = b"GET / HTTP/1.1\r\nX: " + raw.replace(b"\n", b"") + b"\r\n\r\n"
    recorded = from_line(line_of(head_record(Role.CLIENT, head)))
    assert (recorded.kind, recorded.sender, recorded.head, recorded.frame) == ("head", Role.CLIENT, head, None)


def test_secrets_are_masked_before_they_are_written_and_not_again_when_they_are_read() -> None:
    head = b"GET / HTTP/1.1\r\nHost: a\r\nCookie: id=s3cret\r\nauthorization: Basic YTpi\r\n\r\n"
    record = head_record(Role.CLIENT, head)
    assert "s3cret" not in line_of(record)
    assert "YTpi" not in line_of(record)
    assert "Host: a\r\n" in record["head"]
    assert head_record(Role.CLIENT, from_line(line_of(record)).head) == record


def test_4_2_1_the_checks_of_a_handshake_with_what_was_found_and_how_the_key_was_answered() -> None:
    fields = [("Host", "a"), ("Upgrade", "websocket"), ("Sec-WebSocket-Key", SAMPLE_KEY)]
    handshake = examine(Request("GET", "/", "1.1", Headers(fields)), Origins())
    record = checks_record(Role.CLIENT, handshake.checks, Accept.of(SAMPLE_KEY))
    assert (record["kind"], record["sender"], len(record["checks"])) == ("checks", "client", len(handshake.checks))
    assert record["checks"][0] == {
        "section": "RFC 6455 §4.2.1 item 1",
        "requirement": "the method is GET",
        "found": "GET",
        "holds": True,
        "about": "",
    }
    assert [check["about"] for check in record["checks"] if not check["holds"]] == [
        "Connection",
        "Sec-WebSocket-Version",
    ]
    # RFC 6455 §1.3, down to the digest.
    assert record["accept"] == {
        "key": SAMPLE_KEY,
        "guid": "258EAFA5-E914-47DA-95CA-C5AB0DC85B11",
        "sha1": "b37a4f2cc0624f1690f64606cf385945b2bec4ea",
        "value": "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=",
    }
    assert json.loads(line_of(record))["checks"] == record["checks"]
    assert from_line(line_of(record)).sender is Role.CLIENT


def test_4_1_the_checks_of_an_answer_have_the_same_shape_and_no_key_of_their_own() -> None:
    client = ClientHandshake(parse_uri("ws://server.test/"), compression=False)
    request = examine(client.request, Origins())
    outcome = examine_answer(request.response, client.accept, offered_subprotocols=(), offered_compression=False)
    record = checks_record(Role.SERVER, outcome.checks, None)
    assert (record["sender"], "accept" in record) == ("server", False)
    assert all(check["holds"] for check in record["checks"])
    assert {*record["checks"][0]} == {"section", "requirement", "found", "holds", "about"}


@pytest.mark.parametrize(
    ("record", "text"),
    [
        ({"kind": "open", "from": "127.0.0.1:5000"}, "127.0.0.1:5000"),
        ({"kind": "switch"}, ""),
        ({"kind": "end", "told": "closed by the client with 1000"}, "closed by the client with 1000"),
        ({"kind": "lost", "records": 12}, "12"),
    ],
)
def test_a_record_that_is_neither_head_nor_frame_has_a_text(record: Record, text: str) -> None:
    assert from_line(line_of(record)) == Recorded(record["kind"], 1.0, 1, None, b"", None, text)
