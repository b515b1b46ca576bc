"""The queue of one worker: messages and notes in their order, within bounds."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import NamedTuple, TypeAlias

from rawws.limits import MIB
from rawws.local.protocol import History, Kind, history, note

# Messages that wait for a worker that is alive. Beyond that it has missed some.
MAX_LIVE_BYTES = 8 * MIB
# Commands, questions and results that wait for it. Beyond that the worker is given up.
MAX_NOTE_BYTES = 16 * MIB
# The memory of an entry besides its bytes (measured).
ENTRY_BYTES = 100


class _Note(NamedTuple):
    data: bytes


_Entry: TypeAlias = bytes | _Note | Iterator[History]


class Outgoing:
    """A queue of three kinds of entries.

    *Live* messages are the same bytes for all workers. If too many wait, all of them are dropped. *Notes* are never
    dropped. *Histories* are encoded when their turn comes: until then they share the memory of the rooms.
    """

    def __init__(self, max_live_bytes: int = MAX_LIVE_BYTES, max_note_bytes: int = MAX_NOTE_BYTES) -> None:
        self._queue: deque[_Entry] = deque()
        self._max_live_bytes = max_live_bytes
        self._max_note_bytes = max_note_bytes
        self.live_bytes = 0
        self.note_bytes = 0

    def __bool__(self) -> bool:
        return bool(self._queue)

    @property
    def held_bytes(self) -> int:
        """The bytes of memory that it takes, as if no other queue had the same messages."""
        return self.live_bytes + self.note_bytes

    @property
    def is_hopeless(self) -> bool:
        """Whether even the notes are too many."""
        return self.note_bytes > self._max_note_bytes

    def put_live(self, data: bytes) -> bool:
        """Add an encoded batch; return False if the worker has missed messages now, and this one too."""
        if self.live_bytes > self._max_live_bytes:
            self._lose()
            return False
        self._queue.append(data)
        self.live_bytes += len(data) + ENTRY_BYTES
        return True

    def put_note(self, data: bytes) -> None:
        """Add an encoded note."""
        self._queue.append(_Note(data))
        self.note_bytes += len(data) + ENTRY_BYTES

    def put_history(self, parts: Iterator[History]) -> None:
        """Add a history, whose parts are made when they are sent."""
        self._queue.append(parts)

    def _lose(self) -> None:
        """Drop the messages, and send the worker word of it before all that is left."""
        notes = [each for each in self._queue if isinstance(each, _Note)]
        self._queue = deque(notes)
        self.live_bytes = 0
        lost = note(Kind.LOST)
        self._queue.appendleft(_Note(lost))
        self.note_bytes += len(lost) + ENTRY_BYTES

    def take(self, most_bytes: int) -> list[bytes]:
        """Remove and return the next pieces: about as many bytes as asked for, and at least one piece if there is."""
        pieces: list[bytes] = []
        size = 0
        while self._queue and size < most_bytes:
            entry = self._queue[0]
            if isinstance(entry, bytes):
                data = entry
                self.live_bytes -= len(data) + ENTRY_BYTES
                self._queue.popleft()
            elif isinstance(entry, _Note):
                data = entry.data
                self.note_bytes -= len(data) + ENTRY_BYTES
                self._queue.popleft()
            else:
                part = next(entry, None)
                if part is None:
                    self._queue.popleft()
                    continue
                data = history(part)
            pieces.append(data)
            size += len(data)
        return pieces
