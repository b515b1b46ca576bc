"""Message ids: ``epoch-number``, such as ``9f2c41d7-42``.

A log counts its messages, in the order in which all readers get them. Its ids object decides under which ids clients
see them:

* `NumberedIds` are the count, after the log's own epoch. So an id of a log that is gone (the server was restarted, a
  room was forgotten) is recognized, and not taken for a place in another log.
* `StreamIds` were given by the stream that several servers read: ``milliseconds-sequence``, the same for all of them.

The ids of a log grow from message to message, with one exception. A stream that was lost may start again with lower
ids, if the clock was set back or a program chose the ids. Then the log begins a new *sequence* (`StreamIds.restart`),
and its readers get a gap. Ids are looked up in the present sequence only.
"""

from __future__ import annotations

import bisect
import itertools
import os
import re
from array import array
from collections.abc import Iterator
from typing import NamedTuple, Protocol

from rawws.errors import UsageError

_ID = re.compile(r"([0-9a-z]{1,32})-([0-9]{1,20})")


class MessageId(NamedTuple):
    """A place in a log: after the message of that number. 0 is the beginning."""

    epoch: str
    number: int

    def __str__(self) -> str:
        return f"{self.epoch}-{self.number}"

    def is_beyond(self, other: MessageId) -> bool:
        """Say whether messages may be missing from the other place up to this one: it is later, or of another log."""
        if self.epoch.isdigit() and other.epoch.isdigit():  # a stream's, perhaps
            return (int(self.epoch), self.number) > (int(other.epoch), other.number)
        return self.epoch != other.epoch or self.number > other.number


class Gap(NamedTuple):
    """Messages that are missing: those after ``since``, up to and including ``after``. Both are ids."""

    since: str  # the id from which the reader wanted to go on
    after: str  # the id before the first message that is still there


class Ids(Protocol):
    """The ids of a log's messages. Numbers are the log's own, from 1 on; 0 is the place before the first."""

    @property
    def bytes_each(self) -> int:
        """The bytes of memory that a message's id takes."""

    def label(self, number: int) -> bytes:
        """Return the id of a message, which is also that of the place after it."""

    def labels(self, first: int) -> Iterator[bytes]:
        """Return the ids of messages from a number on."""

    def number_of(self, message_id: MessageId) -> int | None:
        """Return the number of the message with an id.

        For an id that is older or newer than all messages, the number is too small or too large. Returns None for an
        id that isn't of this log.
        """

    def knows(self, message_id: MessageId) -> bool:
        """Return whether an id is exactly the place that `number_of` returns, so that no messages can be missing."""

    def forget(self, number: int) -> None:
        """Forget the ids of messages up to this number, which are gone."""


class NumberedIds:
    """Ids that count."""

    bytes_each = 0

    def __init__(self, epoch: str = "") -> None:
        self.epoch = epoch or new_epoch()

    def label(self, number: int) -> bytes:
        return b"%b-%d" % (self.epoch.encode("ascii"), number)

    def labels(self, first: int) -> Iterator[bytes]:
        pattern = self.epoch.encode("ascii") + b"-%d"
        return (pattern % number for number in itertools.count(first))

    def number_of(self, message_id: MessageId) -> int | None:
        return message_id.number if message_id.epoch == self.epoch else None

    def knows(self, message_id: MessageId) -> bool:
        return message_id.epoch == self.epoch

    def forget(self, number: int) -> None:
        pass


class StreamIds:
    """Ids that came with the messages, increasing within a sequence. Both halves are below 2^64."""

    bytes_each = 16

    def __init__(self, floor: tuple[int, int] = (0, 0)) -> None:
        """``floor`` is the id after which the log begins."""
        # The ids of number ``_first`` and of those after it. As tuples they would take ten times as much memory.
        self._milliseconds = array("Q", floor[:1])
        self._sequences = array("Q", floor[1:])
        self._first = 0
        self._begin = 0  # the number of the floor of the present sequence
        self._past = (-1, -1)  # the highest id of the sequences before it
        self.deleted = (0, 0)  # messages up to this id may have been deleted before they were read

    @property
    def last(self) -> tuple[int, int]:
        return self._milliseconds[-1], self._sequences[-1]

    def add(self, milliseconds: int, sequence: int) -> None:
        """Record the id of the next message."""
        self._milliseconds.append(milliseconds)
        self._sequences.append(sequence)

    def restart(self, floor: tuple[int, int]) -> None:
        """Begin a new sequence after the id ``floor``, which takes the next number."""
        self._past = max(self._past, self.last)
        self.deleted = (0, 0)
        self.add(*floor)
        self._begin = self._first + len(self._milliseconds) - 1

    def label(self, number: int) -> bytes:
        place = number - self._first
        return b"%d-%d" % (self._milliseconds[place], self._sequences[place])

    def labels(self, first: int) -> Iterator[bytes]:
        return map(self.label, range(first, self._first + len(self._milliseconds)))

    def number_of(self, message_id: MessageId) -> int | None:
        given = _as_pair(message_id)
        if given is None:
            return None
        begin, place = self._find(given)
        is_known = self._is_at(place - 1, begin, given)
        if not is_known and given <= self._past:
            return None
        if given > self.last:
            return self._first + place
        # The place before the first message has its own id only: other messages may have been between the two.
        return self._first - 1 + place if is_known or place > begin + 1 else self._first - 1 + begin

    def knows(self, message_id: MessageId) -> bool:
        given = _as_pair(message_id)
        if given is None:
            return False
        begin, place = self._find(given)
        return (0, 0) < given <= self.deleted or self._is_at(place - 1, begin, given)

    def is_passed(self, message_id: MessageId) -> bool:
        """Say whether an id is between two ids of the present sequence, and is none of them."""
        given = _as_pair(message_id)
        if given is None or given >= self.last or self.knows(message_id):
            return False
        begin, place = self._find(given)
        return place > begin + 1

    def _find(self, given: tuple[int, int]) -> tuple[int, int]:
        """Return where the present sequence begins in the arrays, and where an id is to be inserted in it."""
        begin = max(0, self._begin - self._first)
        first = bisect.bisect_left(self._milliseconds, given[0], begin)
        after = bisect.bisect_right(self._milliseconds, given[0], begin)
        return begin, bisect.bisect_right(self._sequences, given[1], first, after)

    def _is_at(self, place: int, begin: int, given: tuple[int, int]) -> bool:
        return place >= begin and (self._milliseconds[place], self._sequences[place]) == given

    def forget(self, number: int) -> None:
        gone = max(0, number - self._first)
        del self._milliseconds[:gone]
        del self._sequences[:gone]
        self._first += gone


def _as_pair(message_id: MessageId) -> tuple[int, int] | None:
    """Return an id as a stream's; None if it can't be one."""
    return (int(message_id.epoch), message_id.number) if message_id.epoch.isdigit() else None


def new_epoch() -> str:
    """Return an epoch that no other log has."""
    return os.urandom(4).hex()


def parse_id(text: str) -> MessageId:
    """Read an id. Raises `UsageError` for an invalid one."""
    found = _ID.fullmatch(text)
    if found is None or int(found[2]) >= 1 << 64:  # a stream's are up to there
        raise UsageError(f"{text[:60]!r} is not a message's id, such as 9f2c41d7-42")
    return MessageId(found[1], int(found[2]))
