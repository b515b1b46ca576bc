"""Message ids: ``epoch-number``, such as ``9f2c41d7-42``.

A log counts its messages, in the order in which everybody gets them; what it calls them to the world is for its ids:

* `NumberedIds` are the count, behind the log's own epoch, so that an id of a log which is gone (the server was started
  again, a room was forgotten) is known for what it is, and not taken for a place in another one;
* `StreamIds` were given by the stream that several servers read: ``milliseconds-sequence``, the same for all of them.
"""

from __future__ import annotations

import bisect
import itertools
import os
import re
from collections.abc import Iterator
from typing import NamedTuple, Protocol

from rawws.errors import UsageError

_ID = re.compile(r"([0-9a-z]{1,32})-([0-9]{1,19})")


class MessageId(NamedTuple):
    """A place in a log: behind the message of that number. 0 is the beginning."""

    epoch: str
    number: int

    def __str__(self) -> str:
        return f"{self.epoch}-{self.number}"


class Gap(NamedTuple):
    """Messages that are missing: those behind ``since``, up to and with ``after``. Both are ids."""

    since: str
    after: str


class Ids(Protocol):
    """What a log's messages are called. Numbers are the log's own, from 1 on; 0 is the place before the first."""

    def label(self, number: int) -> bytes:
        """Return the id of a message, or of the place behind it."""

    def labels(self, first: int) -> Iterator[bytes]:
        """Return the ids of messages from a number on."""

    def number_of(self, message_id: MessageId) -> int | None:
        """Return the number of the message with an id.

        A number that is too small or too large is that of an id which is older or newer than all there are; None is
        that of one which isn't of this log.
        """

    def forget(self, number: int) -> None:
        """Messages up to this number are gone, and need no ids any more."""


class NumberedIds:
    """Ids that count."""

    def __init__(self, epoch: str = "") -> None:
        self.epoch = epoch or new_epoch()

    def label(self, number: int) -> bytes:
        return b"%b-%d" % (self.epoch.encode("ascii"), number)

    def labels(self, first: int) -> Iterator[bytes]:
        pattern = self.epoch.encode("ascii") + b"-%d"
        return (pattern % number for number in itertools.count(first))

    def number_of(self, message_id: MessageId) -> int | None:
        return message_id.number if message_id.epoch == self.epoch else None

    def forget(self, number: int) -> None:
        pass


class StreamIds:
    """Ids that came with the messages, ever larger ones."""

    def __init__(self, floor: tuple[int, int] = (0, 0)) -> None:
        """``floor`` is the id behind which the log begins."""
        self._ids = [floor]  # of number ``_first``, and of those that follow
        self._first = 0

    @property
    def last(self) -> tuple[int, int]:
        return self._ids[-1]

    def add(self, milliseconds: int, sequence: int) -> None:
        """Note the id of the next message."""
        self._ids.append((milliseconds, sequence))

    def label(self, number: int) -> bytes:
        return b"%d-%d" % self._ids[number - self._first]

    def labels(self, first: int) -> Iterator[bytes]:
        return (b"%d-%d" % each for each in itertools.islice(self._ids, first - self._first, None))

    def number_of(self, message_id: MessageId) -> int | None:
        if not message_id.epoch.isdigit():
            return None
        given = (int(message_id.epoch), message_id.number)
        if given > self.last:
            return self._first + len(self._ids)
        place = bisect.bisect_right(self._ids, given)
        # The place before the first message is known by its own id only: between the two, others may have been.
        return self._first - 1 + place if place != 1 or given == self._ids[0] else -1

    def forget(self, number: int) -> None:
        del self._ids[: max(0, number - self._first)]
        self._first = max(self._first, number)


def new_epoch() -> str:
    """Return an epoch that no other log has."""
    return os.urandom(4).hex()


def parse_id(text: str) -> MessageId:
    """Read an id. Raises `UsageError` for what can't be one."""
    found = _ID.fullmatch(text)
    if found is None:
        raise UsageError(f"{text[:60]!r} is not a message's id, such as 9f2c41d7-42")
    return MessageId(found[1], int(found[2]))
