"""The engine in SQLite against the one in memory, under random steps."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from rawws.broadcast.idempotency import IdempotencyKey
from rawws.broadcast.log import History
from rawws.store import retention, sqlite_engine
from rawws.store.entries import Append, Clear, Entry, GroupEnd, GroupWrite, Job, Keep, Page
from rawws.store.memory_engine import MemoryEngine
from rawws.store.modes import SyncMode
from rawws.store.sqlite_engine import SqliteEngine
from tests.effort import examples
from tests.store.stores import Clock

PATHS = st.sampled_from(["/a", "/b", "/c"])
NUMBERS = st.integers(0, 30)
HISTORIES = st.sampled_from(
    [History(0), History(3), History(100), History(100, max_bytes=12), History(100, max_age_s=9)]
)
JOBS = st.builds(Job, NUMBERS, st.integers(0, 5), st.sampled_from([0.0, 7.5]), st.sampled_from(["", "lease"]))
ONCE = st.one_of(st.none(), st.builds(IdempotencyKey, st.sampled_from("kl"), st.sampled_from(["", "me"])))
APPENDS = st.builds(
    Append, PATHS, st.binary(max_size=8), st.integers(1, 4), HISTORIES, st.sampled_from([None, "key"]), ONCE,
    st.sampled_from("de"), most_rooms=st.sampled_from([None, 2]),
)  # fmt: skip
ENTRIES = st.one_of(
    APPENDS,
    APPENDS,
    st.builds(
        GroupWrite, PATHS, st.sampled_from("gh"), NUMBERS,
        st.lists(JOBS, max_size=4).map(tuple), st.lists(NUMBERS, max_size=4).map(tuple),
    ),
    st.builds(GroupEnd, PATHS, st.sampled_from("gh")),
    st.builds(Clear, PATHS, NUMBERS),
    st.builds(Keep, PATHS),
)  # fmt: skip


class Engines(RuleBasedStateMachine):
    """Both engines, which have to say the same of everything but the epochs."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="rawws-store-"))
        self.clock = Clock()
        self.unpatch = pytest.MonkeyPatch()
        self.unpatch.setattr(sqlite_engine, "RETURN_S", 0.0)  # the model is never opened again
        self.unpatch.setattr(sqlite_engine, "CROWDED_AFTER_S", retention.FORGOTTEN_AFTER_S)
        self.model = MemoryEngine(self.clock)
        self.epochs: dict[str, str] = {}  # those of the model, by those of the engine
        self.open()

    def open(self) -> None:
        self.engine = SqliteEngine(self.folder / "rooms.db", SyncMode.NEVER, self.clock)

    @rule(entries=st.lists(ENTRIES, max_size=12))
    def commit(self, entries: list[Entry]) -> None:
        self.clock.now += sqlite_engine.SWEEP_S  # every commit looks at all rooms, as the model does
        ours, theirs = self.engine.commit(entries), self.model.commit(entries)
        for outcome, expected in zip(ours, theirs, strict=True):
            assert self.epochs.setdefault(outcome.epoch, expected.epoch) == expected.epoch
            assert outcome[1:] == expected[1:]

    @rule(seconds=st.sampled_from([3.0, 20.0, 700.0, 90_000.0]))
    def wait(self, seconds: float) -> None:
        self.clock.now += seconds
        self.commit([])

    @rule()
    def tend(self) -> None:
        """Forget what is due, which the model has done already. Nothing else may be seen of it."""
        while self.engine.tend():
            pass
        assert self.engine.usage.rooms == self.model.usage.rooms

    @rule()
    def restart(self) -> None:
        self.engine.close()
        self.open()

    @rule(path=PATHS, after=NUMBERS, most_messages=NUMBERS, most_bytes=NUMBERS)
    def read(self, path: str, after: int, most_messages: int, most_bytes: int) -> None:
        for name, bounds in (("read", (after, most_messages, most_bytes)), ("read_last", (most_messages, most_bytes))):
            ours, theirs = (getattr(engine, name)(path, *bounds) for engine in (self.engine, self.model))
            assert without_epoch(ours) == without_epoch(theirs)

    @invariant()
    def rooms_are_the_same(self) -> None:
        for path in ("/a", "/b", "/c"):
            ours, theirs = self.engine.tail(path), self.model.tail(path)
            assert (ours is None) == (theirs is None)
            if ours and theirs:
                assert ours[1:] == theirs[1:]
                assert self.epochs.setdefault(ours.epoch, theirs.epoch) == theirs.epoch

    @invariant()
    def groups_are_the_same(self) -> None:
        assert self.engine.groups() == self.model.groups()

    def teardown(self) -> None:
        self.unpatch.undo()
        self.engine.close()
        shutil.rmtree(self.folder)


def without_epoch(page: Page | None) -> Page | None:
    return page and page._replace(tail=page.tail._replace(epoch=""))


TestEngines = Engines.TestCase
TestEngines.settings = settings(max_examples=examples(40), stateful_step_count=25)
