"""Tests for rawws/store/checksums.py."""

from __future__ import annotations

from hashlib import blake2b

import pytest

from rawws.store.checksums import CHECKSUM_BYTES, checksum


def test_it_is_the_same_for_the_same_values_and_short() -> None:
    assert checksum("record", "/room", 7, 1.5, None, data=b"frames") == checksum(
        "record", "/room", 7, 1.5, None, data=b"frames"
    )
    assert len(checksum()) == CHECKSUM_BYTES


def test_it_is_known_since_stores_keep_it() -> None:
    assert checksum("record", "/r\N{LATIN SMALL LETTER O WITH DIAERESIS}m", 1, None, data=b"x").hex() == (
        blake2b(rb"('record', '/r\xf6m', 1, None)x", digest_size=8).hexdigest()
    )


@pytest.mark.parametrize(
    "other",
    [
        checksum("a", "bc", 1, 2.0, data=b"x"),
        checksum("ab", "c", 1, 2.0, data=b"y"),
        checksum("ab", "c", 2, 2.0, data=b"x"),
        checksum("ab", "c", 1, 2.5, data=b"x"),
        checksum("ab", "c", 1.0, 2.0, data=b"x"),
        checksum("ab", "c", "1", 2.0, data=b"x"),
        checksum("ab", None, 1, 2.0, data=b"x"),
        checksum("ab", "\ud800", 1, 2.0, data=b"x"),
    ],
    ids=["another border", "other data", "another number", "another float", "a float", "a text", "none", "a surrogate"],
)
def test_it_tells_values_apart(other: bytes) -> None:
    assert checksum("ab", "c", 1, 2.0, data=b"x") != other


@pytest.mark.parametrize("size", [0, 2047, 2048, 5000, 2047 * 32, 2047 * 32 + 1])
def test_the_size_of_the_pieces_makes_no_difference(size: int) -> None:
    data = bytes(range(256)) * (size // 256 + 1)
    assert checksum(data=data[:size]) == blake2b(b"()" + data[:size], digest_size=8).digest()
