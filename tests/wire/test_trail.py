"""The record of a connection's last frames."""

from __future__ import annotations

import pytest

from rawws.wire.frames import Opcode, encode_frame
from rawws.wire.role import Role
from rawws.wire.session import Session
from rawws.wire.trail import NO_TRAIL, describe_trail, follow
from tests.wire.helpers import MASK_KEY

FIN = 0x80


def masked(opcode: int, payload: bytes = b"", *, fin: bool = True) -> bytes:
    return encode_frame(opcode, payload, fin=fin, mask_key=MASK_KEY)


def test_the_newest_four_are_told_the_oldest_first() -> None:
    trail = NO_TRAIL
    assert describe_trail(trail) == ""
    for size in range(6):
        trail = follow(trail, FIN | Opcode.TEXT, size)
    assert describe_trail(trail) == "TEXT of 2 bytes, TEXT of 3 bytes, TEXT of 4 bytes, TEXT of 5 bytes"


@pytest.mark.parametrize(
    ("first_byte", "size", "description"),
    [
        (FIN | Opcode.PING, 1, "PING of 1 byte"),
        (FIN | Opcode.BINARY, 1 << 40, "BINARY of 1,099,511,627,776 bytes"),
        (FIN | 0x40 | Opcode.TEXT, 9, "TEXT of 9 bytes (compressed)"),
        (Opcode.CONTINUATION, 0, "CONTINUATION of 0 bytes (not the last fragment)"),
        (0x40 | Opcode.TEXT, 2, "TEXT of 2 bytes (compressed, not the last fragment)"),
        (FIN | 0x0B, (1 << 64) - 1, "opcode 0xb of 18,446,744,073,709,551,615 bytes"),
    ],
)
def test_a_frame_is_told_by_its_opcode_and_its_size(first_byte: int, size: int, description: str) -> None:
    assert describe_trail(follow(NO_TRAIL, first_byte, size)) == description


@pytest.mark.parametrize("fast_lane", [True, False])
@pytest.mark.parametrize("relays", [True, False])
def test_a_session_remembers_in_either_lane(fast_lane: bool, relays: bool) -> None:
    session = Session(Role.SERVER, max_message_bytes=10_000, fast_lane=fast_lane, relays=relays)
    receive = session.relay_data if relays else session.receive_data
    receive(masked(Opcode.TEXT, b"hello"))
    receive(masked(Opcode.PING, b"?"))
    large = masked(Opcode.BINARY, b"x" * 5000)
    receive(large[:3000])
    receive(large[3000:])
    receive(masked(Opcode.TEXT, b"a", fin=False))
    assert describe_trail(session.trail) == (
        "TEXT of 5 bytes, PING of 1 byte, BINARY of 5,000 bytes, TEXT of 1 byte (not the last fragment)"
    )


def test_of_many_frames_in_one_read_the_last_is_remembered_at_least() -> None:
    session = Session(Role.SERVER, max_message_bytes=10_000)
    session.receive_data(b"".join(masked(Opcode.TEXT, b"x" * size) for size in range(9)))
    assert describe_trail(session.trail).endswith("TEXT of 8 bytes")


def test_a_large_message_that_goes_right_to_its_place() -> None:
    session = Session(Role.SERVER, max_message_bytes=1 << 20)
    frame = masked(Opcode.BINARY, b"x" * 300_000)
    session.receive_data(frame[:1000])
    rest = frame[1000:]
    while rest:
        buffer = session.large_buffer()
        assert buffer is not None
        with buffer:
            size = min(len(buffer), len(rest))
            buffer[:size] = rest[:size]
        session.received(size)
        rest = rest[size:]
    assert describe_trail(session.trail) == "BINARY of 300,000 bytes"
