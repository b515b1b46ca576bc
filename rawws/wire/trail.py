"""The last frames of a connection, for diagnosis after it has ended.

A trail has the last four frames of a read. Each is one number, made of the frame's first byte and its payload's length.
So it costs next to nothing to keep them for every connection.
"""

from __future__ import annotations

from rawws.wire.frames import FIN, OPCODE, RSV1, Opcode

Trail = tuple[int, int, int, int]

NO_TRAIL: Trail = (-1, -1, -1, -1)
LENGTH_BITS = 64


def follow(trail: Trail, first_byte: int, payload_bytes: int) -> Trail:
    """Return a trail with one more frame, the newest first. (The fast lane has this inline.)"""
    return (first_byte << LENGTH_BITS | payload_bytes, trail[0], trail[1], trail[2])


def describe_trail(trail: Trail) -> str:
    """Return the frames in their order, such as ``TEXT of 5 bytes, PING of 0 bytes``; empty if there are none."""
    return ", ".join(_describe(entry) for entry in reversed(trail) if entry >= 0)


def _describe(entry: int) -> str:
    first, payload_bytes = entry >> LENGTH_BITS, entry & (1 << LENGTH_BITS) - 1
    try:
        name = Opcode(first & OPCODE).name
    except ValueError:
        name = f"opcode {first & OPCODE:#x}"
    notes = ["compressed"] * bool(first & RSV1) + ["not the last fragment"] * (not first & FIN)
    size = f"{name} of {payload_bytes:,} byte{'s' * (payload_bytes != 1)}"
    return f"{size} ({', '.join(notes)})" if notes else size
