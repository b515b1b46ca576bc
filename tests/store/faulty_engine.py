"""An engine in memory that fails, or blocks, when a test says so."""

from __future__ import annotations

import threading
from collections.abc import Sequence

from rawws.store.engine import StoreError, StoreLimit, StoreUnfit, Usage
from rawws.store.entries import Append, Entry, GroupState, Outcome, Page, RoomTail


class FaultyEngine:
    """Numbers messages, and records the commits. It keeps no messages."""

    description = "a test's store"
    held_bytes = 0
    usage = Usage()

    def __init__(self) -> None:
        self.commits: list[list[Entry]] = []
        self.tries = 0  # to commit
        self.syncs = 0
        self.is_closed = False
        self.fault: Exception | None = None  # is raised by each commit
        self.sync_fault: StoreError | None = None
        self.shortage: StoreLimit | None = None
        self.tended = 0
        self.more_to_tend = 0  # times that there is more to do
        self.tend_fault: Exception | None = None
        self.gate = threading.Event()  # a commit waits for it
        self.gate.set()
        self.threads: set[int] = set()
        self._numbers: dict[str, int] = {}

    def commit(self, entries: Sequence[Entry]) -> list[Outcome]:
        self.threads.add(threading.get_ident())
        self.gate.wait()
        self.tries += 1
        if self.fault is not None:
            raise self.fault
        self.commits.append(list(entries))
        return [self._carry_out(entry) for entry in entries]

    def _carry_out(self, entry: Entry) -> Outcome:
        if not isinstance(entry, Append):
            return Outcome()
        if entry.frames == b"poison":
            raise ZeroDivisionError("poison")
        if entry.frames == b"huge":
            raise StoreUnfit("it is too large")
        first = self._numbers.get(entry.path, 0) + 1
        self._numbers[entry.path] = first + entry.messages - 1
        return Outcome("e", first)

    def tend(self) -> bool:
        self.threads.add(threading.get_ident())
        self.tended += 1
        if self.tend_fault is not None:
            raise self.tend_fault
        self.more_to_tend -= 1
        return self.more_to_tend >= 0

    def sync(self) -> None:
        self.threads.add(threading.get_ident())
        self.syncs += 1
        if self.sync_fault is not None:
            raise self.sync_fault

    def close(self) -> None:
        self.threads.add(threading.get_ident())
        self.is_closed = True

    def tail(self, path: str) -> RoomTail | None:
        raise NotImplementedError

    def read(self, path: str, after: int, most_messages: int, most_bytes: int) -> Page | None:
        raise NotImplementedError

    def read_last(self, path: str, most_messages: int, most_bytes: int) -> Page | None:
        raise NotImplementedError

    def groups(self) -> list[GroupState]:
        return []
