"""The last frames of a connection, for the log line that says why it ended.

`RecentFrames` has the four frames that were last when a read was over. Each is its first byte and its payload's length,
in one number. More would cost memory that every connection takes.
"""

from __future__ import annotations

from rawws.wire.frames import FIN, OPCODE, RSV1, Opcode

RecentFrames = tuple[int, int, int, int]

NO_FRAMES: RecentFrames = (-1, -1, -1, -1)
LENGTH_BITS = 64


def push(recent: RecentFrames, first_byte: int, payload_bytes: int) -> RecentFrames:
    """Return the frames with one more, the newest first. The fast reader has this written out."""
    return (first_byte << LENGTH_BITS | payload_bytes, recent[0], recent[1], recent[2])


def describe_recent_frames(recent: RecentFrames) -> str:
    """Return the frames in their order, such as ``TEXT of 5 bytes, PING of 0 bytes``; empty if there are none."""
    return ", ".join(_describe(entry) for entry in reversed(recent) if entry >= 0)


def _describe(entry: int) -> str:
    first, payload_bytes = entry >> LENGTH_BITS, entry & (1 << LENGTH_BITS) - 1
    try:
        name = Opcode(first & OPCODE).name
    except ValueError:
        name = f"opcode {first & OPCODE:#x}"
    notes = ["compressed"] * bool(first & RSV1) + ["not the last fragment"] * (not first & FIN)
    size = f"{name} of {payload_bytes:,} byte{'s' * (payload_bytes != 1)}"
    return f"{size} ({', '.join(notes)})" if notes else size
