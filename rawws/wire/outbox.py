"""Messages on their way to a backplane: sent in batches, each message once.

A batch is sent whole and in order. If its answer doesn't come, it is unknown whether the batch has arrived, and it
stays at the head of the queue. So the store records, in the same step in which it takes a batch, the number of the last
message that it has from us. That number tells how much of the batch can be dropped.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from rawws.wire.broadcast_log import History
from rawws.wire.stream_entries import Author, StreamId

# The memory of a message besides its payload and its keys (measured).
OVERHEAD_BYTES = 380
# Its fields "data", "op" and "by" come first.
_OTHER_FIELDS = 6

DEFAULT_HISTORY = History()


@dataclass(eq=False, slots=True)
class Outgoing:
    """One message on its way. Its result is one of ``id``, ``is_reused`` and ``problem``."""

    path: str
    fields: list[str | bytes]
    size: int
    on_done: Callable[[], None] | None = None
    once: str = ""  # an Idempotency-Key: messages with the same one in the same room are published once
    digest: str = ""  # of the message that the key is for
    history: History = DEFAULT_HISTORY  # of the room; the store may drop older messages
    author: Author | None = None
    is_done: bool = False
    id: StreamId | None = None  # None when it has arrived, but the answer with its id has not
    is_reused: bool = False  # its key was used for another message
    problem: str = ""  # why it can't ever be published

    @property
    def held_bytes(self) -> int:
        """The bytes of memory that the message takes."""
        keys = sum(map(len, self.fields[_OTHER_FIELDS:])) + len(self.once) + len(self.digest)
        return self.size + keys + OVERHEAD_BYTES


class Outbox:
    """A queue of messages, the first of which may have been sent without an answer yet."""

    def __init__(self, max_bytes: int) -> None:
        """The queue is full from ``max_bytes`` on. It takes more even then, since accepted messages must be kept."""
        self._queue: deque[Outgoing] = deque()
        self._max_bytes = max_bytes
        self._under_way = 0
        self.waiting_bytes = 0
        self.sent = 0  # the number of the last message that is known to have arrived

    def __len__(self) -> int:
        return len(self._queue)

    @property
    def is_full(self) -> bool:
        return self.waiting_bytes >= self._max_bytes

    @property
    def under_way(self) -> int:
        """The number of messages that were sent and not answered yet."""
        return self._under_way

    def put(self, message: Outgoing) -> None:
        self.waiting_bytes += message.held_bytes
        self._queue.append(message)

    def batch(self, most: int, most_bytes: int) -> list[Outgoing]:
        """Return the next batch, at least one message if there is one. Their numbers follow ``sent``."""
        assert not self._under_way, "a batch is under way"
        batch: list[Outgoing] = []
        size = 0
        for message in itertools.islice(self._queue, most):
            size += message.size
            if batch and size > most_bytes:
                break
            batch.append(message)
        self._under_way = len(batch)
        return batch

    def arrived(self, count: int) -> list[Outgoing]:
        """Remove the first ``count`` messages, which have arrived."""
        assert count <= self._under_way, "what has not gone out can't have arrived"
        done = [self._queue.popleft() for _ in range(count)]
        self._under_way -= count
        self.sent += count
        for message in done:
            self.waiting_bytes -= message.held_bytes
            message.is_done = True
        return done

    def give_up(self) -> None:
        """Record that messages under way can't arrive any more, so that they are sent again."""
        self._under_way = 0

    def take_back(self, message: Outgoing) -> bool:
        """Remove a message that was not sent yet; return False if it was."""
        for place, each in enumerate(self._queue):
            if each is message:
                if place < self._under_way:
                    return False
                del self._queue[place]
                self.waiting_bytes -= message.held_bytes
                return True
        return False
