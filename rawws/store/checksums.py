"""Checksums by which a store knows that what it reads is what it wrote, and where.

A checksum covers a row's place besides its contents: the room's path and epoch, and the number of the message. So a row
that a damaged file shows in another place is recognized too. It is BLAKE2b with 8 bytes: a CRC would be half as long
and hardly faster here, and a damaged row that fits it by chance would be given out once in four billion, not never.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from hashlib import blake2b
from typing import TypeAlias

Value: TypeAlias = str | bytes | int | float | None

CHECKSUM_BYTES = 8

# From 2,048 bytes on, hashlib gives up the GIL, and gets it back from a busy loop only after milliseconds. Up to this
# size that would take longer than the sum itself.
_PIECE = 2047
_MOST_PIECES = 32

_INTEGER = struct.Struct("<Bq")
_NUMBER = struct.Struct("<Bd")
_LENGTH = struct.Struct("<BQ")
_NOTHING = b"\x00"


def checksum(*values: Value) -> bytes:
    """Return the checksum of some values, which are told apart by their types and lengths too.

    Raises `TypeError` for a value of another type, and `OverflowError` for an integer above 64 bits.
    """
    running = blake2b(digest_size=CHECKSUM_BYTES)
    for part in map(_encode, values):
        for piece in _pieces(part):
            running.update(piece)
    return running.digest()


def _encode(value: Value) -> bytes:
    if value is None:
        return _NOTHING
    if isinstance(value, str):
        data = value.encode("utf-8", "surrogatepass")
        return _LENGTH.pack(1, len(data)) + data
    if isinstance(value, bytes):
        return _LENGTH.pack(2, len(value)) + value
    if isinstance(value, float):
        return _NUMBER.pack(3, value)
    if isinstance(value, int):
        try:
            return _INTEGER.pack(4, value)
        except struct.error as error:
            raise OverflowError(str(error)) from None
    raise TypeError(f"no checksum of {type(value).__name__}")


def _pieces(data: bytes) -> Iterator[bytes | memoryview]:
    """Yield the data in pieces that don't give up the GIL, unless there would be many."""
    if len(data) <= _PIECE or len(data) > _PIECE * _MOST_PIECES:
        yield data
        return
    view = memoryview(data)
    for start in range(0, len(data), _PIECE):
        yield view[start : start + _PIECE]
