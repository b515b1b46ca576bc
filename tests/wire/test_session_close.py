"""The end of a connection: who begins it, with which code, and what is still heard (RFC 6455 §5.5.1, §7)."""

from __future__ import annotations

import pytest

from rawws.wire.events import CloseFrame, CloseReceived, Failed, Message, PingReceived, PongReceived
from rawws.wire.frames import Opcode, encode_frame
from rawws.wire.role import Role
from rawws.wire.session import Session, State
from tests.wire.helpers import (
    LIMIT,
    MASK_KEY,
    assert_closing,
    assert_failing,
    assert_ignoring,
    both_roles,
    closed_with,
    every_split,
    frames_in,
    from_peer,
    receive,
)

# §5.5.1 Close

CLOSES = [
    ("8800", b"", CloseFrame(1005, "")),
    *(("8802", closed_with(code), CloseFrame(code, "")) for code in (1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010)),
    *(("8802", closed_with(code), CloseFrame(code, "")) for code in (1011, 1012, 1013, 1014, 3000, 3999, 4000, 4999)),
    ("8808", closed_with(1001, "Tschü".encode()), CloseFrame(1001, "Tschü")),
    ("8805", closed_with(1014, b"bye"), CloseFrame(1014, "bye")),
    ("887d", closed_with(4000, b"r" * 123), CloseFrame(4000, "r" * 123)),
]


@both_roles
@pytest.mark.parametrize(("header", "payload", "close"), CLOSES, ids=[f"{row[0]}-{row[2].code}" for row in CLOSES])
def test_5_5_1_a_close_is_answered_with_a_close(our_role: Role, header: str, payload: bytes, close: CloseFrame) -> None:
    for chunks in every_split(from_peer(our_role, header, payload)):
        assert_closing(*receive(our_role, chunks), close, payload)


@both_roles
@pytest.mark.parametrize("code", [1000, 1014])
def test_5_5_1_frames_behind_a_close_are_ignored(our_role: Role, code: int) -> None:
    close = from_peer(our_role, "8805", closed_with(code, b"bye"))
    for behind in (from_peer(our_role, "8105", b"Hello"), from_peer(our_role, "8800"), b"\xff" * 20, b"\x81"):
        for chunks in every_split(close + behind):
            session, events = receive(our_role, chunks)
            assert events == [CloseReceived(CloseFrame(code, "bye"))]
            assert_closing(session, events, CloseFrame(code, "bye"), closed_with(code, b"bye"))


@both_roles
def test_5_5_1_frames_before_a_close_are_heard(our_role: Role) -> None:
    data = from_peer(our_role, "8901", b"?") + from_peer(our_role, "8101", b"a") + from_peer(our_role, "8800")
    for chunks in every_split(data):
        session, events = receive(our_role, chunks)
        assert events == [PingReceived(b"?"), Message(Opcode.TEXT, b"a"), CloseReceived(CloseFrame(1005, ""))]
        assert frames_in(session.data_to_send()) == [(Opcode.PONG, b"?"), (Opcode.CLOSE, b"")]


@both_roles
def test_5_5_1_after_our_close_the_peer_is_heard_until_its_own(our_role: Role) -> None:
    session = Session(our_role, max_message_bytes=LIMIT)
    session.close(1001, "going")
    session.close(1011, "only the first counts")
    assert (session.state, session.close_begun_by) == (State.CLOSING, our_role)
    assert frames_in(session.data_to_send()) == [(Opcode.CLOSE, closed_with(1001, b"going"))]
    data = [from_peer(our_role, "8105", b"Hello"), from_peer(our_role, "8900"), from_peer(our_role, "8a00")]
    assert session.receive_data(b"".join(data)) == [
        Message(Opcode.TEXT, b"Hello"),
        PingReceived(b""),
        PongReceived(b""),
    ]
    assert session.receive_data(from_peer(our_role, "8802", closed_with(1001))) == [CloseReceived(CloseFrame(1001, ""))]
    assert session.data_to_send() == b"", "nothing follows our close, no pong and no second close"
    assert_ignoring(session)


@both_roles
@pytest.mark.parametrize("code", [1000, 1014])
def test_5_5_1_closes_that_cross_are_both_known(our_role: Role, code: int) -> None:
    session = Session(our_role, max_message_bytes=LIMIT)
    session.close(1001)
    events = session.receive_data(from_peer(our_role, "8802", closed_with(code)))
    assert events == [CloseReceived(CloseFrame(code, ""))]
    assert (session.close_begun_by, session.close_sent, session.close_rcvd) == (
        our_role,
        CloseFrame(1001, ""),
        CloseFrame(code, ""),
    )
    assert session.is_closed


@both_roles
def test_5_5_1_a_broken_rule_after_our_close_sends_no_second_close(our_role: Role) -> None:
    session = Session(our_role, max_message_bytes=LIMIT)
    session.close(1000)
    session.data_to_send()
    (failed,) = session.receive_data(from_peer(our_role, "8300"))
    assert isinstance(failed, Failed)
    assert failed.fault.code == "invalid_opcode"
    assert (session.state, session.close_rcvd) == (State.CLOSED, None)
    assert_ignoring(session)
    assert "opcode" in session.describe_end(), "the close that went before says nothing about the fault"


@both_roles
@pytest.mark.parametrize(
    ("header", "reason", "fault"),
    [
        ("0805", b"bye", "control_fragmented"),
        ("c805", b"bye", "reserved_bit"),
        ("9805", b"bye", "reserved_bit"),
        ("887e 007e", b"x" * 124, "control_too_long"),
        ("887e 00bd", b"x" * 187, "control_too_long"),
        ("887e 0005", b"bye", "control_too_long"),
        ("887f 0000000000000005", b"bye", "control_too_long"),
    ],
    ids=["FIN=0", "RSV1", "RSV3", "126 bytes", "189 bytes", "length in 2 bytes", "length in 8"],
)
def test_7_4_code_1014_excuses_nothing_else(our_role: Role, header: str, reason: bytes, fault: str) -> None:
    for chunks in every_split(from_peer(our_role, header, closed_with(1014, reason))):
        assert_failing(*receive(our_role, chunks), 1002, fault)


@both_roles
@pytest.mark.parametrize("code", [1000, 1014])
def test_8_1_a_reason_that_is_not_utf8_fails_with_1007(our_role: Role, code: int) -> None:
    for chunks in every_split(from_peer(our_role, "8805", closed_with(code, b"\xc3\x28x"))):
        assert_failing(*receive(our_role, chunks), 1007, "close_reason_not_utf8")


@both_roles
def test_7_4_code_1014_behind_a_broken_rule_excuses_nothing(our_role: Role) -> None:
    data = from_peer(our_role, "8300") + from_peer(our_role, "8802", closed_with(1014))
    for chunks in every_split(data):
        assert_failing(*receive(our_role, chunks), 1002, "invalid_opcode")


def test_7_4_code_1014_excuses_no_wrong_mask() -> None:
    masked, unmasked = encode_frame(8, closed_with(1014), mask_key=MASK_KEY), encode_frame(8, closed_with(1014))
    assert_failing(*receive(Role.SERVER, [unmasked]), 1002, "not_masked")
    assert_failing(*receive(Role.CLIENT, [masked]), 1002, "masked")


@both_roles
@pytest.mark.parametrize(
    ("reason", "sent"),
    [("x" * 200, b"x" * 123), ("ü" * 100, "ü".encode() * 61), ("🌍" * 40, "🌍".encode() * 30)],
    ids=["1 byte a character", "2 bytes", "4 bytes"],
)
def test_5_5_a_reason_is_cut_to_123_bytes_between_characters(our_role: Role, reason: str, sent: bytes) -> None:
    session = Session(our_role, max_message_bytes=LIMIT)
    session.close(1008, reason)
    assert frames_in(session.data_to_send()) == [(Opcode.CLOSE, closed_with(1008, sent))]
    assert session.close_sent == CloseFrame(1008, sent.decode()), "what was sent is what is remembered"


# The side that ended it


@both_roles
def test_the_end_is_described_by_who_and_why(our_role: Role) -> None:
    them = our_role.other.name.lower()

    def ended_by(*frames: tuple[str, bytes], close: tuple[int, str] | None = None, limit: int = LIMIT) -> str:
        session = Session(our_role, max_message_bytes=limit)
        if close is not None:
            session.close(*close)
        for frame in frames:
            session.receive_data(from_peer(our_role, *frame))
        return session.describe_end()

    assert ended_by() == "lost without a close (1006)"
    assert ended_by(("8800", b"")) == f"closed by the {them} with 1005 (no status received)"
    assert ended_by(("8805", closed_with(1001, b"bye"))) == f"closed by the {them} with 1001 (going away) 'bye'"
    assert ended_by(("8802", closed_with(4001))) == f"closed by the {them} with 4001"
    assert ended_by(close=(1001, "")) == "closed by us with 1001 (going away), with no close in answer"
    assert (
        ended_by(("8802", closed_with(1001)), close=(1001, "so long"))
        == "closed by us with 1001 (going away) 'so long', answered with 1001 (going away)"
    )
    reason = f"message of 11 bytes or more is over the {our_role.name.lower()}'s limit of 10 (max_size)"
    assert ended_by(("820b", b""), limit=10) == f"failed by us with 1009 (message too big) {reason!r}"
    assert ended_by(("8300", b"")) == "failed by us with 1002 (protocol error) 'Invalid opcode 0x3 (RFC 6455 §5.2)'"


def test_a_repr_tells_the_state_in_one_line() -> None:
    session, _ = receive(Role.SERVER, [from_peer(Role.SERVER, "8300")])
    assert repr(session) == (
        "<Session SERVER closed close_sent=1002 (protocol error) 'Invalid opcode 0x3 (RFC 6455 §5.2)' "
        "close_rcvd=None fault=invalid_opcode>"
    )


@both_roles
@pytest.mark.parametrize("fast_lane", [True, False], ids=["fast", "plain"])
@pytest.mark.parametrize(("code", "payload"), [(1005, b""), (1000, b"\x03\xe8"), (4000, b"\x0f\xa0")])
def test_7_1_5_a_close_of_ours_without_a_status_has_no_payload(
    our_role: Role, fast_lane: bool, code: int, payload: bytes
) -> None:
    session = Session(our_role, max_message_bytes=LIMIT, fast_lane=fast_lane)
    session.close(code)
    assert frames_in(session.data_to_send()) == [(Opcode.CLOSE, payload)]
    assert session.close_sent == CloseFrame(code, "")


@both_roles
@pytest.mark.parametrize("fast_lane", [True, False], ids=["fast", "plain"])
def test_7_1_7_a_fault_in_front_of_a_close_is_what_ends_the_connection(our_role: Role, fast_lane: bool) -> None:
    data = from_peer(our_role, "8101", b"\xff") + from_peer(our_role, "8802", closed_with(1000))
    session = Session(our_role, max_message_bytes=LIMIT, fast_lane=fast_lane)
    assert_failing(session, session.receive_data(data), 1007, "text_not_utf8")
