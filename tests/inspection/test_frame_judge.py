"""Frames seen from outside: each with its place, its message, and the fault that its receiver finds."""

from __future__ import annotations

import pytest

from rawws.inspection.frame_judge import FrameJudge
from rawws.inspection.observer import Observer
from rawws.inspection.seen import Rest, Seen, SeenFrame
from rawws.wire.deflate import Deflater
from rawws.wire.frames import RSV1, Opcode, SeenMessage, encode_frame
from rawws.wire.role import Role
from tests.inspection.test_observer import CLIENT, HELLO, KEY, SERVER, faults, see


def test_a_context_that_is_kept_between_messages() -> None:
    # RFC 7692 §7.2.3.2: the second "Hello" refers to the first.
    first, second = bytes.fromhex("c107f248cdc9c90700"), bytes.fromhex("c105f200110000")
    seen = see((SERVER, first + second), in_frames=True)
    assert [each.message for each in seen if isinstance(each, SeenFrame)] == [SeenMessage(Opcode.TEXT, 5, b"Hello")] * 2


@pytest.mark.parametrize(
    ("sender", "raw", "fault"),
    [
        (CLIENT, encode_frame(Opcode.TEXT, b"Hello"), "not_masked"),
        (SERVER, HELLO, "masked"),
        (SERVER, encode_frame(0xB, b""), "invalid_opcode"),
        (SERVER, encode_frame(Opcode.PING, bytes(126)), "control_too_long"),
        (SERVER, encode_frame(Opcode.PING, b"", fin=False), "control_fragmented"),
        (SERVER, encode_frame(Opcode.TEXT, b"\xff"), "text_not_utf8"),
        (SERVER, encode_frame(Opcode.CONTINUATION, b""), "unexpected_continuation"),
        (SERVER, encode_frame(Opcode.TEXT, b"", fin=False) + encode_frame(Opcode.TEXT, b""), "expected_continuation"),
        (SERVER, bytes.fromhex("817e0005") + b"Hello", "length_not_minimal"),
        (SERVER, encode_frame(Opcode.CLOSE, b"\x03"), "close_payload_short"),
        (SERVER, bytes.fromhex("827f8000000000000000"), "length_too_large"),
    ],
)
def test_a_frame_has_the_fault_that_its_receiver_finds(sender: Role, raw: bytes, fault: str) -> None:
    assert faults(see((sender, raw), in_frames=True)) == [fault]


@pytest.mark.parametrize(
    ("deflated", "fault"),
    [(b"\xff" * 5, "deflate_invalid"), (Deflater(15).deflate(b"\xff"), "text_not_utf8")],
)
def test_7692_7_2_2_a_fault_in_the_inflated_data_ends_the_reading(deflated: bytes, fault: str) -> None:
    stream = encode_frame(Opcode.TEXT, deflated, rsv=RSV1) + encode_frame(0xB, b"")
    bad, late = see((SERVER, stream), in_frames=True)
    assert isinstance(bad, SeenFrame)
    assert isinstance(late, SeenFrame)
    assert bad.fault is not None
    assert (bad.fault.code, bad.fault.close_code, bad.message, bad.ignored) == (fault, 1007, None, False)
    assert (late.fault, late.ignored) == (None, True)


def test_5_5_1_frames_after_a_close_are_shown_and_not_judged() -> None:
    stream = encode_frame(Opcode.CLOSE, b"\x03\xe8") + encode_frame(0xB, b"")
    close, late = see((SERVER, stream), in_frames=True)
    assert isinstance(close, SeenFrame)
    assert isinstance(late, SeenFrame)
    assert (close.ignored, late.ignored, late.fault) == (False, True, None)


def test_5_2_a_frame_is_the_same_byte_by_byte_and_stands_where_it_began() -> None:
    long = encode_frame(Opcode.BINARY, bytes(300), mask_key=KEY)
    seen = see(*((CLIENT, bytes((byte,))) for byte in HELLO + long + HELLO), in_frames=True)
    assert seen == see((CLIENT, HELLO + long + HELLO), in_frames=True)
    assert [each.at for each in seen if isinstance(each, SeenFrame)] == [0, 11, 11 + len(long)]


def test_a_text_is_judged_to_its_end_however_long_it_is() -> None:
    text = "Wörter " * 10_000
    good, cut = (encode_frame(Opcode.TEXT, data) for data in (text.encode(), text.encode() + b"\xc3"))
    assert faults(see((SERVER, good), in_frames=True)) == []
    assert faults(see((SERVER, cut), in_frames=True)) == ["text_not_utf8"]


def test_frames_after_the_end_are_listed_up_to_a_bound() -> None:
    observer = Observer(in_frames=True)
    seen = observer.receive(CLIENT, bytes(1_000_000))
    assert len(seen) == 1 + 1000 + 1
    assert faults(seen) == ["not_masked"]
    assert seen[-1] == Rest(
        CLIENT, 2002, bytes(64), "its receiver reads no more, and from here on nothing is looked at"
    )
    assert observer.receive(CLIENT, HELLO) == observer.finish() == []


def test_bytes_after_a_fault_are_not_measured_as_a_frame() -> None:
    rest = see((Role.SERVER, b"\x83\x00" + b"\x81\x7f" + b"\x7f" * 20), in_frames=True)[-1]
    assert isinstance(rest, Rest)
    assert rest.reason == "its receiver reads no more, and the rest is not a whole frame"


@pytest.mark.parametrize(
    ("begins", "reason"),
    [
        (b"\xa1\x85", "the frame's header so far"),
        (b"\x89\xff" + bytes(7) + b"\x7e" + KEY, "the frame so far: 126 bytes of its payload are missing"),
        (
            b"\x82\xff\x80" + bytes(7) + KEY,
            "the frame so far: 9,223,372,036,854,775,808 bytes of its payload are missing",
        ),
    ],
)
def test_a_faulty_frame_is_reported_once_and_before_its_receiver_answers(begins: bytes, reason: str) -> None:
    close = encode_frame(Opcode.CLOSE, b"\x03\xea")
    rest, answer, *ignored = see((CLIENT, begins), (SERVER, close), (CLIENT, bytes(200)), in_frames=True)
    assert isinstance(rest, Rest)
    assert (rest.sender, rest.at, rest.raw, rest.reason) == (CLIENT, 0, begins, reason)
    assert rest.fault is not None
    assert rest.fault.close_code == 1002
    assert isinstance(answer, SeenFrame)
    assert answer.sender is SERVER
    assert not faults(ignored)
    assert all(each.at > 0 for each in ignored if isinstance(each, SeenFrame | Rest))


def test_a_frame_without_fault_is_reported_when_it_is_complete() -> None:
    answer, hello = see(
        (CLIENT, HELLO[:7]), (SERVER, encode_frame(Opcode.TEXT, b"hi")), (CLIENT, HELLO[7:]), in_frames=True
    )
    assert isinstance(answer, SeenFrame)
    assert isinstance(hello, SeenFrame)
    assert (answer.sender, hello.sender) == (SERVER, CLIENT)


def test_a_faulty_frame_is_not_reported_before_its_receiver_has_sent_a_byte() -> None:
    observer = Observer(in_frames=True)
    assert observer.receive(CLIENT, b"\xa1\x85") == []
    assert observer.receive(SERVER, b"") == []
    (rest,) = observer.receive(SERVER, b"\x88")
    assert isinstance(rest, Rest)
    assert (rest.sender, rest.reason) == (CLIENT, "the frame's header so far")


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (HELLO[:1], "the frame's header ends here"),
        (HELLO[:8], "the frame ends here: 3 bytes of its payload are missing"),
    ],
)
def test_an_incomplete_frame_is_reported_at_the_end(raw: bytes, reason: str) -> None:
    assert see((CLIENT, raw), in_frames=True) == [Rest(CLIENT, 0, raw, reason)]


def test_7692_6_a_compressed_frame_is_a_fault_where_compression_was_not_agreed_on() -> None:
    deflated = encode_frame(Opcode.TEXT, Deflater(15).deflate(b"Hello" * 100), rsv=RSV1)
    out: list[Seen] = []
    FrameJudge(SERVER, 0, None).receive(deflated, out)
    assert faults(out) == ["reserved_bit"]
