"""The queue of messages that a worker has sent, and that the sequencer has not confirmed yet, sans-IO.

They are confirmed in their order, and counted until then: publishers are held back by them.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from rawws.broadcast.outbox import Outgoing


class Sent(NamedTuple):
    """Something that the sequencer has not confirmed."""

    serial: int
    size: int  # the bytes for which it counts
    messages: int
    post: Outgoing | None = None  # the message whose publisher waits for the result
    on_done: Callable[[], object] | None = None


class Unconfirmed:
    """The queue of one worker. It is full from ``max_bytes`` on, and accepts more nevertheless."""

    __slots__ = ("_max_bytes", "_queue", "held_bytes", "is_full", "serials")

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._queue: deque[Sent] = deque()
        self.held_bytes = 0
        self.is_full = False
        self.serials = itertools.count(1)  # the numbers of what is sent

    def __len__(self) -> int:
        return len(self._queue)

    @property
    def messages(self) -> int:
        """The number of messages that are not confirmed."""
        return sum(each.messages for each in self._queue)

    def add(self, sent: Sent) -> bool:
        """Add what is about to be sent, with a serial above all others; return whether it fills the queue."""
        was_full = self.is_full
        self._queue.append(sent)
        self.held_bytes += sent.size
        self.is_full = self.held_bytes >= self._max_bytes
        return self.is_full and not was_full

    def confirm(self, serial: int, results: Sequence[Sequence[Any]]) -> None:
        """Remove all up to a serial, and tell those who wait.

        Each result is the serial of a message whose publisher waits, its epoch, its number, and whether its
        Idempotency-Key was used for another message.
        """
        by_serial = {given[0]: given[1:] for given in results}
        while self._queue and self._queue[0].serial <= serial:
            sent = self._queue.popleft()
            self.held_bytes -= sent.size
            self.is_full = self.held_bytes >= self._max_bytes
            if sent.on_done is not None:
                sent.on_done()
            if sent.post is not None:
                epoch, first, is_reused = by_serial[sent.serial]
                sent.post.is_reused = is_reused
                sent.post.stored_as = "" if is_reused else f"{epoch}-{first}"
                _finish(sent.post)

    def fail(self, problem: str) -> None:
        """Tell those who wait that nothing is confirmed any more. The queue stays as it is, and is counted."""
        for sent in self._queue:
            if sent.post is not None:
                sent.post.problem = problem
                _finish(sent.post)
            if sent.on_done is not None:
                sent.on_done()


def _finish(message: Outgoing) -> None:
    message.is_done = True
    if message.on_done is not None:
        message.on_done()
