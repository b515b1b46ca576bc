"""Engines for tests: a clock that tests set, and stores in files and in memory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

from rawws.broadcast.idempotency import IdempotencyKey
from rawws.broadcast.log import History
from rawws.store.entries import Append, Outcome, Page, Record
from rawws.store.memory_engine import MemoryEngine
from rawws.store.modes import SyncMode
from rawws.store.sqlite_engine import SqliteEngine

AnyEngine: TypeAlias = MemoryEngine | SqliteEngine

AMPLE = History(messages=10_000, max_bytes=1 << 30, max_age_s=1e9)
ROOM = "/room/pay"
MOST = 1 << 30


@dataclass
class Clock:
    """The time, which only a test changes."""

    now: float = 1_700_000_000.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Place:
    """Where a test's store is. A store in memory can't be opened again."""

    path: Path | None
    mode: SyncMode = SyncMode.INTERVAL
    clock: Clock = field(default_factory=Clock)

    @contextmanager
    def open(self) -> Iterator[AnyEngine]:
        engine = MemoryEngine(self.clock) if self.path is None else SqliteEngine(self.path, self.mode, self.clock)
        try:
            yield engine
        finally:
            engine.close()


def message(
    text: str, path: str = ROOM, *, history: History = AMPLE, key: str | None = None, once: str = "", owner: str = ""
) -> Append:
    """Return an entry that appends one message, whose frames are its text."""
    idempotency = IdempotencyKey(once, owner) if once else None
    return Append(path, text.encode(), 1, history, key, idempotency, f"digest of {text}" if once else "")


def append(engine: AnyEngine, *texts: str, path: str = ROOM, history: History = AMPLE) -> list[Outcome]:
    """Append messages, each in a commit of its own."""
    return [engine.commit([message(text, path, history=history)])[0] for text in texts]


def texts(page: Page | None) -> list[str | None]:
    """Return the texts of the records of a page; None for lost messages."""
    assert page is not None
    return [None if each.frames is None else each.frames.decode() for each in page.records]


def read(engine: AnyEngine, path: str = ROOM, after: int = 0) -> list[str | None]:
    """Return the texts of a room."""
    return texts(engine.read(path, after, MOST, MOST))


def records(page: Page | None) -> list[Record]:
    assert page is not None
    return list(page.records)
