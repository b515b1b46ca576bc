"""Checksums by which a store knows that what it reads is what it wrote, and where.

A checksum covers a row's place besides its contents: the room's path and epoch, and the number of the message. So a row
that a damaged file shows in another place is recognized too. It is BLAKE2b with 8 bytes: a CRC would be half as long
and hardly faster here, and a damaged row that fits it by chance would be given out once in four billion, not never.
"""

from __future__ import annotations

from hashlib import blake2b
from typing import TypeAlias

Value: TypeAlias = str | int | float | None

CHECKSUM_BYTES = 8

# From 2,048 bytes on, hashlib gives up the GIL, and gets it back from a busy loop only after milliseconds. Up to some
# size that would take longer than the sum itself.
_PIECE = 2047
_MOST_PIECES = 32


def checksum(*values: Value, data: bytes = b"") -> bytes:
    """Return the checksum of some values, which are told apart by their types and lengths too, and of bytes."""
    # Unlike repr(), ascii() doesn't depend on a version's knowledge of Unicode.
    running = blake2b(ascii(values).encode("ascii"), digest_size=CHECKSUM_BYTES)
    if len(data) <= _PIECE or len(data) > _PIECE * _MOST_PIECES:
        running.update(data)
    else:
        view = memoryview(data)
        for start in range(0, len(data), _PIECE):
            running.update(view[start : start + _PIECE])
    return running.digest()
