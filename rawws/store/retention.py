"""The records of a room that a store may forget.

Records go whole, the oldest first, as soon as one of the history's limits no longer needs or allows them. A message
that a group still needs keeps its record, and all later ones.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import NamedTuple

from rawws.broadcast.idempotency import KEPT_S
from rawws.broadcast.log import History
from rawws.store.entries import Job

# A room with no messages, groups or Idempotency-Keys left is forgotten when nothing was appended for this time, and
# nobody has used it (`Keep`). Its next message begins a new epoch.
FORGOTTEN_AFTER_S = 86_400.0
# While the store has no space for more, or as many rooms as it may, such a room is forgotten after this time already.
CROWDED_AFTER_S = 600.0
# No room is forgotten within this time after the start: its readers come back first.
RETURN_S = 600.0
# A room is looked at again after this time, if something in it is old and can't go, since a group needs it.
LOOK_AGAIN_S = 60.0


class Kept(NamedTuple):
    """A record that is kept: the number of its first message, its messages and bytes, and its time in seconds."""

    first: int
    messages: int
    size: int
    at: float

    @property
    def last(self) -> int:
        """The number of the last message."""
        return self.first + self.messages - 1


class Extent(NamedTuple):
    """The messages and the bytes of all records of a room."""

    messages: int
    size: int

    def without(self, record: Kept) -> Extent:
        """Return the extent after a record has gone."""
        return Extent(max(0, self.messages - record.messages), max(0, self.size - record.size))


NO_EXTENT = Extent(0, 0)


def removable(oldest: Iterable[Kept], extent: Extent, history: History, now: float, needed: int) -> int:
    """Return how many of the oldest records may go. Messages from the number ``needed`` on stay."""
    count = 0
    for record in oldest:
        rest = extent.without(record)
        is_over = rest.messages >= history.messages or extent.size > history.max_bytes
        if record.last >= needed or not (is_over or now - record.at >= history.max_age_s):
            break
        count, extent = count + 1, rest
    return count


def is_over(extent: Extent, oldest_at: float, history: History, now: float) -> bool:
    """Say whether a room may have records that can go, without a look at them."""
    return extent.messages > 0 and (
        extent.messages > history.messages or extent.size > history.max_bytes or now - oldest_at >= history.max_age_s
    )


def due_at(
    extent: Extent, oldest_at: float, history: History, keyed_at: float, used_at: float | None, now: float
) -> float:
    """Return the earliest time at which something in a room may be forgotten.

    ``keyed_at`` is the time of its last Idempotency-Key, or 0; ``used_at`` is None for a room that has groups, and so
    is never forgotten itself. Old messages that can't go now, since a group needs them, are looked at again later.
    """
    times = [math.inf]
    if extent.messages:
        times.append(oldest_at + history.max_age_s)
    if keyed_at:
        times.append(keyed_at + KEPT_S)
    if used_at is not None and not extent.messages and not keyed_at:
        times.append(used_at + FORGOTTEN_AFTER_S)
    at = min(times)
    return at if at > now else now + LOOK_AGAIN_S


def needed_by(position: int, jobs: Iterable[Job]) -> int:
    """Return the number of the first message that a group still needs."""
    return min((job.number for job in jobs), default=position + 1)
