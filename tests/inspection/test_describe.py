"""Descriptions of a connection, in lines for a person: each title has the sender, the offset and the kind."""

from __future__ import annotations

import pytest

from rawws.inspection import dissect
from rawws.inspection.describe import describe
from rawws.inspection.observer import Observer
from rawws.inspection.seen import Seen, Switch
from rawws.wire.deflate import Deflater
from rawws.wire.frames import RSV1, Opcode, encode_frame
from rawws.wire.role import Role
from tests.wire.helpers import MASK_KEY

REQUEST = (
    b"GET /room HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\nCookie: id=s3cret\r\n\r\n"
)


def described(sender: Role, raw: bytes, *, in_frames: bool = False, with_ruler: bool = False) -> list[list[str]]:
    observer = Observer(in_frames=in_frames, shown_bytes=1000)
    seen: list[Seen] = observer.receive(sender, raw) + observer.finish()
    return [describe(each, with_ruler=with_ruler) for each in seen]


def frames_told(raw: bytes, *, with_ruler: bool = False) -> list[list[str]]:
    return described(Role.SERVER, raw, in_frames=True, with_ruler=with_ruler)


def test_4_2_1_a_good_request_has_its_lines_its_checks_and_the_steps_to_its_accept_value() -> None:
    ((title, *lines),) = described(Role.CLIENT, REQUEST)
    assert title == "client → server, byte 0: HTTP request"
    assert all(line.startswith("    ") for line in lines)
    assert lines[0] == "    GET /room HTTP/1.1"
    assert lines[6] == "    Cookie: (masked, 9 bytes)"
    assert lines[7] == "    = RFC 6455 §4.2.1 item 1: the method is GET? yes: GET"
    assert not [line for line in lines if line.startswith("    !")]
    assert lines[-5].split() == ["=", "key", "dGhlIHNhbXBsZSBub25jZQ=="]
    assert lines[-2] == "    = in base64      s3pPLMBiTxaQ9kYGzzhZRbK+xOo="


def test_4_2_1_a_requirement_that_is_not_met_is_a_fault_and_the_key_is_not_answered() -> None:
    ((_, *lines),) = described(Role.CLIENT, REQUEST.replace(b"Version: 13", b"Version: 12"))
    assert [line for line in lines if line.startswith("    !")] == [
        "    ! RFC 6455 §4.2.1 item 6: Sec-WebSocket-Version is 13? NO (426): 12"
    ]
    assert not [line for line in lines if "base64" in line]


def test_a_response_comes_from_the_right_and_ends_http() -> None:
    answer = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n"
    response, switch = described(Role.SERVER, answer)
    assert response[:2] == ["server → client, byte 0: HTTP response", "    HTTP/1.1 101 Switching Protocols"]
    assert switch == describe(Switch()) == ["HTTP ends, WebSocket begins"]
    assert describe(Switch("h2c")) == ["HTTP ends, h2c begins: what follows is not read"]


def test_a_head_that_can_not_be_read_is_told_with_why() -> None:
    ((_, *lines),) = described(Role.CLIENT, b"GET / HTTP/1.1\r\nbad header\r\n\r\n")
    assert lines == [
        "    GET / HTTP/1.1",
        "    bad header",
        "    ! Line 2 of the request is not a header of the form 'Name: value'.",
    ]


def test_5_7_a_frame_is_a_line_with_the_ruler_under_it_if_that_is_wanted() -> None:
    observer = Observer(in_frames=True)
    (hello,) = observer.receive(Role.CLIENT, encode_frame(Opcode.TEXT, b"Hello", mask_key=MASK_KEY))
    title = "client → server, byte 0: TEXT fin=1 rsv=000 mask=37fa213d len=5 'Hello'"
    assert describe(hello, with_ruler=False) == [title]
    assert describe(hello) == [title, *("    " + row for row in dissect.lines(hello.frame))]  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("opcode", "payload", "shown"),
    [
        (Opcode.TEXT, "né".encode(), "TEXT, 3 bytes: 'né'"),
        (Opcode.TEXT, b"x" * 200, f"TEXT, 200 bytes: '{'x' * 200}'"),
        (Opcode.TEXT, b"x" * 201, f"TEXT, 201 bytes: '{'x' * 200}…'"),
        (Opcode.BINARY, bytes(range(4)), "BINARY, 4 bytes: 00 01 02 03"),
        (Opcode.BINARY, bytes(32), f"BINARY, 32 bytes: {bytes(32).hex(' ')}"),
        (Opcode.BINARY, bytes(1033), f"BINARY, 1,033 bytes: {bytes(32).hex(' ')} …"),
    ],
)
def test_5_4_the_last_fragment_of_a_message_is_followed_by_the_message(
    opcode: Opcode, payload: bytes, shown: str
) -> None:
    raw = encode_frame(opcode, payload[:2], fin=False) + encode_frame(Opcode.CONTINUATION, payload[2:])
    first, last = frames_told(raw)
    assert len(first) == 1
    assert last[1:] == [f"    = the message: {shown}"]


def test_7692_6_a_compressed_frame_is_followed_by_what_it_inflates_to() -> None:
    ((_, *lines),) = frames_told(encode_frame(Opcode.TEXT, Deflater(15).deflate(b"Hello" * 3), rsv=RSV1))
    assert lines == ["    = the message: TEXT, 15 bytes: 'HelloHelloHello'"]


def test_7_1_7_a_fault_names_its_rule_and_the_code_and_what_is_behind_it_is_not_read() -> None:
    raw = encode_frame(0xB, b"") + encode_frame(Opcode.TEXT, b"late")
    (_, *fault), (_, *late) = frames_told(raw)
    assert fault == ["    ! Invalid opcode 0xb (RFC 6455 §5.2); the receiver fails with 1002"]
    assert late == ["    = not read by its receiver: the connection had ended (RFC 6455 §5.5.1, §7.1.7)"]


def test_a_frame_that_is_cut_short_is_told_with_its_bytes_and_what_is_missing() -> None:
    hello = encode_frame(Opcode.TEXT, b"Hello")
    whole, cut = frames_told(hello + hello[:4])
    assert len(whole) == 1
    assert cut == ["server → client, byte 7: the frame ends here: 3 bytes of its payload are missing: 81 05 48 65"]


def test_a_frame_that_is_cut_short_behind_a_fault_has_both() -> None:
    (cut,) = frames_told(encode_frame(0xB, b"12345")[:4])
    assert cut[0].endswith("3 bytes of its payload are missing: 8b 05 31 32")
    assert cut[1:] == ["    ! Invalid opcode 0xb (RFC 6455 §5.2); the receiver fails with 1002"]
