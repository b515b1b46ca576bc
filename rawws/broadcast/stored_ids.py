"""The ids of a log whose messages are numbered elsewhere, by a store.

A store gives each room an epoch and contiguous numbers. A log that was loaded from it begins in the midst of them, and
numbers messages by itself. So the ids are the log's numbers plus a *shift*, in *runs*: a run ends where the store's
numbers don't go on, and the log has a gap there.
"""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Iterator
from operator import attrgetter
from typing import NamedTuple

from rawws.broadcast.message_ids import MessageId

# The epoch of a room of which nothing was stored yet. "0-0" is the place before the first message of any room.
NO_EPOCH = "0"
BEGINNING = MessageId(NO_EPOCH, 0)


class _Run(NamedTuple):
    """Consecutive messages of the log that are consecutive in the store."""

    begin: int  # the number in the log of the place before its first message
    epoch: str
    shift: int  # from a number in the log to the store's

    def label(self, number: int) -> bytes:
        return b"%b-%d" % (self.epoch.encode("ascii"), number + self.shift)


class StoredIds:
    """Ids that a store has given."""

    bytes_each = 0

    def __init__(self, epoch: str = NO_EPOCH, last: int = 0) -> None:
        """The log begins after the message ``last`` of an epoch."""
        self._runs = [_Run(0, epoch, last)]

    def next_is(self, number: int) -> tuple[str, int]:
        """Return the epoch and the number that the store is expected to give to a message of the log."""
        run = self._runs[-1]
        return run.epoch, number + run.shift

    def begin(self, epoch: str) -> None:
        """Record the epoch of a room of which nothing was stored before."""
        assert self._runs[-1].epoch == NO_EPOCH
        self._runs[-1] = self._runs[-1]._replace(epoch=epoch)

    def restart(self, number: int, epoch: str, last: int) -> None:
        """Begin a new run: a gap has the log's ``number``, and message ``last`` of an epoch is the last one in it."""
        self._runs.append(_Run(number, epoch, last - number))

    def _run_of(self, number: int) -> _Run:
        return self._runs[max(0, bisect.bisect_right(self._runs, number, key=attrgetter("begin")) - 1)]

    def label(self, number: int) -> bytes:
        return self._run_of(number).label(number)

    def labels(self, first: int) -> Iterator[bytes]:
        if first >= self._runs[-1].begin:
            return map(self._runs[-1].label, itertools.count(first))
        return map(self.label, itertools.count(first))

    def number_of(self, message_id: MessageId) -> int | None:
        place, latest = None, None
        for run in reversed(self._runs):
            if message_id == BEGINNING or message_id.epoch == run.epoch:
                place = message_id.number - run.shift
                if place >= run.begin:
                    return place if latest is None else min(place, latest)
            latest = run.begin - 1
        return place

    def knows(self, message_id: MessageId) -> bool:
        return self.number_of(message_id) is not None

    def forget(self, number: int) -> None:
        while len(self._runs) > 1 and self._runs[1].begin <= number:
            del self._runs[0]
