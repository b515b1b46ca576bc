"""The parts of a connection that an observer sees, and their properties."""

from __future__ import annotations

import pytest

from rawws.inspection.seen import Head, SeenFrame
from rawws.wire.checks import Check
from rawws.wire.frames import Frame, Opcode, SeenMessage, encode_frame, parse_header
from rawws.wire.role import Role

MET = Check[str]("RFC 6455 §4.1 item 1", "the status is 101", "101")
FAILED = Check("RFC 6455 §4.1 item 1", "the status is 101", "200", "the server answered 200 instead of 101")


@pytest.mark.parametrize(
    ("head", "is_fine"),
    [
        (Head(Role.SERVER, 0, b""), True),
        (Head(Role.SERVER, 0, b"", (MET,)), True),
        (Head(Role.SERVER, 0, b"", (MET, FAILED)), False),
        (Head(Role.SERVER, 0, b"", problem="this is not the head of a response"), False),
    ],
    ids=["no checks", "met", "failed", "malformed"],
)
def test_a_head_is_fine_without_a_problem_and_without_a_failed_check(head: Head, is_fine: bool) -> None:
    assert head.is_fine is is_fine


def test_a_frame_has_the_message_that_ends_with_it() -> None:
    header = parse_header(encode_frame(Opcode.TEXT, b"hi"))
    assert header is not None
    message = SeenMessage(Opcode.TEXT, 2, b"hi")
    assert SeenFrame(Role.SERVER, 0, Frame(header, b"hi", b"", message)).message is message
