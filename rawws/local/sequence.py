"""The order of one room: the numbers of its messages, the latest of them, and its Idempotency-Keys."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import NamedTuple

from rawws.broadcast.idempotency import Repeats
from rawws.broadcast.log import History as Limits
from rawws.broadcast.message_ids import MessageId, new_epoch
from rawws.limits import KIB
from rawws.local.protocol import History, Past, Publish

# The memory of a room, and of a record besides its frames and key (measured).
SEQUENCE_BYTES, RECORD_BYTES = 1400, 230
# Messages of a history are sent together, as long as they have this size and were published within this time: a worker
# takes a hundred small messages at once as quickly as three alone.
PIECE_BYTES, PIECE_MESSAGES, PIECE_S = 32 * KIB, 256, 1.0
# The size of one message with a part of a history.
PART_BYTES = 256 * KIB


class Outcome(NamedTuple):
    """The number of the first of some messages; for a repeat, that of the message that was published before."""

    first: int
    is_repeat: bool = False
    is_reused: bool = False  # its Idempotency-Key was used for another message: nothing is published


class Sequence:
    """A room as the sequencer has it. Times are seconds of any clock that all callers share."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.epoch = new_epoch()
        self.newest = 0
        self.followers = set[int]()  # the numbers of their links
        self.used_at = 0.0
        self._limits = Limits()
        self._records: deque[Past] = deque()
        self._messages = 0  # in the records
        self._bytes = 0
        self._repeats: Repeats | None = None

    def __repr__(self) -> str:
        return (
            f"<Sequence {self.path} {self.epoch}-{self.newest} kept={self._messages} followers={len(self.followers)}>"
        )

    @property
    def held_bytes(self) -> int:
        """The bytes of memory that it takes."""
        repeats = 0 if self._repeats is None else self._repeats.held_bytes
        return SEQUENCE_BYTES + len(self.path) + self._bytes + RECORD_BYTES * len(self._records) + repeats

    @property
    def is_unused(self) -> bool:
        """Whether nobody would miss it: nobody follows it, and it keeps nothing."""
        return not (self.followers or self.keeps)

    @property
    def keeps(self) -> bool:
        """Whether it has something that is worth its memory to nobody but later readers and publishers."""
        return bool(self._records or self._repeats)

    def limit(self, limits: Limits, now: float) -> None:
        """Keep as much as the room's history has, by the worker that has named the limits last."""
        self._limits, self.used_at = limits, now
        self.expire(now)

    def append(self, given: Publish, now: float) -> Outcome:
        """Number some messages, and keep them as long as the room's limits let them."""
        if given.once is not None:
            self._repeats = self._repeats or Repeats()
            if known := self._repeats.find(given.once, now):
                is_same = known.digest == given.digest
                return Outcome(known.number, is_repeat=is_same, is_reused=not is_same)
            self._repeats.note(given.once, self.newest + 1, given.digest, now)
        first = self.newest + 1
        self.newest += given.messages
        if given.history.messages:
            self._records.append(Past(first, given.messages, now, given.key, given.frames))
            self._messages += given.messages
            self._bytes += _size_of(self._records[-1])
        self.limit(given.history, now)
        return Outcome(first)

    def expire(self, now: float) -> None:
        """Forget what the limits don't let it keep."""
        messages, max_bytes, max_age_s = self._limits
        while self._records:
            oldest = self._records[0]
            is_over = self._messages - oldest.messages >= messages or self._bytes > max_bytes
            if not is_over and now - oldest.at < max_age_s:
                break
            self._forget_oldest()
        if self._repeats is not None:
            self._repeats.expire(now)
            self._repeats = self._repeats or None

    def clear(self) -> None:
        """Forget all messages. The numbers go on, and Idempotency-Keys stay."""
        self._records.clear()
        self._messages = self._bytes = 0

    def end_history(self) -> None:
        """Forget all messages and Idempotency-Keys."""
        self.clear()
        self._repeats = None

    def _forget_oldest(self) -> None:
        gone = self._records.popleft()
        self._messages -= gone.messages
        self._bytes -= _size_of(gone)

    # Reading

    def read(self, since: MessageId | None) -> Iterator[History]:
        """Yield the messages after a place, or the whole history for a place that isn't in it; at least one part.

        They are those of this moment, whenever the iterator is used.
        """
        after = since.number if since is not None and since.epoch == self.epoch else 0
        records = [each.after(after) for each in self._records if each.last > after]
        return self._parts(records, self.newest)

    def _parts(self, records: list[Past], newest: int) -> Iterator[History]:
        part: list[Past] = []
        size = 0
        for record in _join(records):
            if part and size + len(record.frames) > PART_BYTES:
                yield History(self.path, self.epoch, newest, False, tuple(part))
                part, size = [], 0
            part.append(record)
            size += len(record.frames)
        yield History(self.path, self.epoch, newest, True, tuple(part))


def _size_of(record: Past) -> int:
    return len(record.frames) + len(record.key or "")


def _join(records: list[Past]) -> Iterator[Past]:
    """Yield records, small ones without a key together."""
    some: list[Past] = []
    messages = size = 0
    for record in records:
        messages += record.messages
        size += len(record.frames)
        if some and (
            messages > PIECE_MESSAGES
            or size > PIECE_BYTES
            or record.key is not None
            or some[0].key is not None
            or record.at - some[0].at > PIECE_S
        ):
            yield _joined(some)
            some, messages, size = [], record.messages, len(record.frames)
        some.append(record)
    if some:
        yield _joined(some)


def _joined(some: list[Past]) -> Past:
    if len(some) == 1:
        return some[0]
    messages = sum(each.messages for each in some)
    return Past(some[0].first, messages, some[-1].at, None, b"".join([each.frames for each in some]))
