"""Tests for rawws/store/losses.py."""

from __future__ import annotations

import pytest

from rawws.store.entries import Record
from rawws.store.losses import fill, lost


def record(first: int, last: int) -> Record:
    return Record(first, last - first + 1, float(first), b"x" * (last - first + 1))


A, B, C = record(1, 3), record(4, 4), record(5, 9)


@pytest.mark.parametrize(
    ("records", "first", "last", "filled"),
    [
        ([A, B, C], 1, 9, [A, B, C]),
        ([A, B, C], 2, 9, [A, B, C]),
        ([A, C], 1, 9, [A, lost(4, 4, 5.0), C]),
        ([C], 2, 9, [lost(2, 4, 5.0), C]),
        ([A], 1, 9, [A, lost(4, 9, 1.0)]),
        ([A], 1, None, [A]),
        ([], 2, 9, [lost(2, 9, 0.0)]),
        ([], 10, 9, []),
        ([A, record(2, 3), B], 1, 4, [A, B]),
    ],
    ids=[
        *("nothing is missing", "it begins within a record", "one in the middle", "the first ones", "the last ones"),
        *("no end is known", "all", "none were expected", "a record is shown twice"),
    ],
)
def test_missing_numbers_become_records_without_frames(
    records: list[Record], first: int, last: int | None, filled: list[Record]
) -> None:
    assert list(fill(records, first, last)) == filled
