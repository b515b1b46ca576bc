"""Messages on their way to a backplane: sent in batches, each message once.

A batch is sent whole and in order. If its answer doesn't come, it is unknown whether the batch has arrived, and it
stays at the head of the queue. So the store records, in the same step in which it takes a batch, the number of the last
message that it has from us. That number tells how much of the batch can be dropped.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rawws.broadcast.idempotency import IdempotencyKey
from rawws.broadcast.log import History
from rawws.broadcast.stream_entries import Author, StreamId, fields_of, format_stream_id
from rawws.errors import Refusal
from rawws.wire.frames import Opcode, split_frames

# The memory of a message besides its payload and its keys (measured).
OVERHEAD_BYTES = 380


@dataclass(eq=False, slots=True)
class Outgoing:
    """A message for a room, on its way to a backplane.

    One of ``label``, ``is_reused`` and ``problem`` is its result.
    """

    path: str
    opcode: Opcode
    payload: bytes
    history: History  # the room's, by which the store may forget
    sender: int = 0  # the number of the connection that it came from
    key: str | None = None  # by which a room with `Slow.LATEST` replaces it
    once: IdempotencyKey | None = None  # messages with the same one in the same room are published once, by any node
    digest: str = ""  # of the message that the Idempotency-Key stands for
    on_done: Callable[[], None] | None = None
    author: Author | None = None  # set by the backplane
    is_done: bool = False
    id: StreamId | None = None  # in a stream; None when it has arrived, but the answer with its id has not
    stored_as: str = ""  # its id in a store that has no streams
    is_reused: bool = False  # its Idempotency-Key was used for another message
    problem: str = ""  # the reason why it can never be published
    refusal: Refusal | None = None  # and the answer to who has sent it, if that isn't the same for all problems

    @classmethod
    def split(
        cls, path: str, frames: Sequence[bytes | bytearray], history: History, sender: int, key: str | None
    ) -> list[Outgoing]:
        """Return encoded messages as one object each."""
        return [
            cls(path, Opcode(header.opcode), bytes(payload), history, sender=sender, key=key)
            for header, payload in split_frames(b"".join(frames))
        ]

    @property
    def label(self) -> str | None:
        """Its id as clients see it; None when that isn't known."""
        return self.stored_as or (None if self.id is None else format_stream_id(self.id))

    @property
    def fields(self) -> list[str | bytes]:
        """The fields of its entry in a stream, once it has an author.

        Raises UnicodeEncodeError for a key that UTF-8 can't encode.
        """
        assert self.author is not None
        return fields_of(self.opcode, self.payload, self.author, self.key)

    @property
    def described(self) -> str:
        """A name for it, for the log."""
        return f"a message for room {self.path}"

    @property
    def held_bytes(self) -> int:
        """The bytes of memory that it takes."""
        keys = len(self.key or "") + (self.once.held_bytes if self.once else 0) + len(self.digest)
        return len(self.payload) + keys + OVERHEAD_BYTES


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
            size += len(message.payload)
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

    def withdraw(self, message: Outgoing) -> bool:
        """Remove a message that was not sent yet; return False if it was."""
        for place, each in enumerate(self._queue):
            if each is message:
                if place < self._under_way:
                    return False
                del self._queue[place]
                self.waiting_bytes -= message.held_bytes
                return True
        return False
