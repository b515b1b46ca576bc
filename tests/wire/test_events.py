"""Names of closes, and values that a program may send as one message (RFC 6455 §5.6, §7.4)."""

from __future__ import annotations

from typing import Any

import pytest

from rawws.errors import UsageError
from rawws.wire.events import CLOSE_CODE_NAMES, CloseFrame, Data, Message, as_message, check_close
from rawws.wire.frames import Opcode


@pytest.mark.parametrize(
    ("code", "reason", "expected"),
    [
        (1000, "", "1000 (normal closure)"),
        (1001, "bye", "1001 (going away) 'bye'"),
        (1005, "", "1005 (no status received)"),
        (4000, "", "4000"),
        (4000, "a\nb", "4000 'a\\nb'"),
    ],
)
def test_7_4_a_close_is_told_with_its_name_and_its_reason_on_one_line(code: int, reason: str, expected: str) -> None:
    assert str(CloseFrame(code, reason)) == expected


def test_7_4_1_the_reserved_code_1004_has_no_name_and_no_other_of_the_registry_lacks_one() -> None:
    assert set(CLOSE_CODE_NAMES) == {*range(1000, 1016)} - {1004}


@pytest.mark.parametrize("code", [1000, 1001, 1003, 1007, 1011, 1014, 3000, 4999])
def test_7_4_a_program_may_close_with_codes_that_an_endpoint_sets(code: int) -> None:
    assert check_close(code, None) == (code, "")
    assert check_close(code, "x" * 123) == (code, "x" * 123)


@pytest.mark.parametrize("code", [0, 999, 1004, 1005, 1006, 1015, 1016, 2999, 5000, None, "1000"])
def test_7_4_a_code_that_is_never_sent_is_refused(code: Any) -> None:
    with pytest.raises(UsageError, match=r"can't be sent as a close code \(RFC 6455 §7.4\); give 1000, "):
        check_close(code, "bye")


@pytest.mark.parametrize("reason", ["x" * 124, "é" * 62])
def test_5_5_a_reason_has_123_bytes_at_most(reason: str) -> None:
    with pytest.raises(UsageError, match="a close reason of 124 bytes is too long; a close frame holds 123"):
        check_close(1000, reason)


@pytest.mark.parametrize(
    ("data", "text", "message"),
    [
        ("é", None, Message(Opcode.TEXT, b"\xc3\xa9")),
        ("é", True, Message(Opcode.TEXT, b"\xc3\xa9")),
        ("é", False, Message(Opcode.BINARY, b"\xc3\xa9")),
        ("", None, Message(Opcode.TEXT, b"")),
        (b"\xff", None, Message(Opcode.BINARY, b"\xff")),
        (b"\xff", False, Message(Opcode.BINARY, b"\xff")),
        (b"\xc3\xa9", True, Message(Opcode.TEXT, b"\xc3\xa9")),
        (bytearray(b"ab"), None, Message(Opcode.BINARY, b"ab")),
        (memoryview(b"abcd")[1:3], None, Message(Opcode.BINARY, b"bc")),
        (memoryview(b"abcd")[::2], True, Message(Opcode.TEXT, b"ac")),
    ],
)
def test_5_6_a_str_is_a_text_and_bytes_are_binary_unless_it_is_said(
    data: Data, text: bool | None, message: Message
) -> None:
    assert as_message(data, text) == message


def test_a_message_does_not_change_with_the_buffer_that_it_was_made_of() -> None:
    buffer = bytearray(b"before")
    message = as_message(buffer)
    buffer[:] = b"behind"
    assert message.payload == b"before"


@pytest.mark.parametrize(("data", "text"), [(b"\xff", True), (b"\xed\xa0\x80", True), ("\ud800", None)])
def test_5_6_a_text_is_utf_8_and_a_lone_surrogate_is_none(data: Data, text: bool | None) -> None:
    with pytest.raises(ValueError, match="utf-8"):
        as_message(data, text)


@pytest.mark.parametrize("data", [None, 5, ["a"], {"a": 1}])
def test_a_value_of_another_type_is_named(data: object) -> None:
    with pytest.raises(TypeError, match=f"not {type(data).__name__}$"):
        as_message(data)  # type: ignore[arg-type]
