"""Lost messages: numbers of a room that no record has."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from rawws.store.entries import Record


def fill(records: Iterable[Record], first: int, last: int | None) -> Iterator[Record]:
    """Yield records in their order, and one without frames for each stretch of numbers between them that is missing.

    The first record may begin before message ``first``. Numbers up to ``last`` are expected; without it, those up to
    the last record. A record that overlaps an earlier one is left out.
    """
    at = 0.0
    for record in records:
        if record.last < first:
            continue
        if record.first > first:
            yield lost(first, record.first - 1, record.at)
        yield record
        first, at = record.last + 1, record.at
    if last is not None and last >= first:
        yield lost(first, last, at)


def lost(first: int, last: int, at: float) -> Record:
    """Return a stretch of lost messages; its time is that of a record beside it."""
    return Record(first, last - first + 1, at, None)
