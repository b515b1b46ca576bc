"""The committer: what waits is one commit, in order; it tries again, and says so when nothing can be stored."""

from __future__ import annotations

import logging
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from rawws.broadcast.log import History
from rawws.relay.loop import current_loop
from rawws.store import committer as committer_module
from rawws.store.committer import PROBE, Committer
from rawws.store.engine import StoreBroken, StoreError, StoreFull, StoreLimit, StoreUnfit
from rawws.store.entries import Append, Clear, Entry, GroupWrite, Job, Outcome
from rawws.store.waiting import Result
from tests.store.faulty_engine import FaultyEngine
from tests.traced_memory import traced_memory

pytestmark = pytest.mark.usefixtures("bounded")

HISTORY = History(10)
FULL = StoreFull("there is no space left on the disk")


def append(text: str = "hi", path: str = "/x") -> Append:
    return Append(path, text.encode(), 1, HISTORY)


@asynccontextmanager
async def running(committer: Committer) -> AsyncIterator[Committer]:
    async with trio.open_nursery() as nursery:
        await nursery.start(committer.run)
        yield committer
        nursery.cancel_scope.cancel()


@pytest.fixture
def engine() -> FaultyEngine:
    return FaultyEngine()


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have a committer try again soon. A mock clock would jump while the thread works."""
    monkeypatch.setattr(committer_module, "FIRST_REST_S", 0.001)
    monkeypatch.setattr(committer_module, "MAX_REST_S", 0.002)


async def until(is_true: Callable[[], object]) -> None:
    while not is_true():
        await trio.sleep(0.001)


async def test_all_that_waits_is_one_commit_and_the_outcomes_come_in_order(engine: FaultyEngine) -> None:
    results: list[tuple[str, Result]] = []
    commits: list[int] = []

    def note(name: str, result: Result) -> None:
        results.append((name, result))

    async with running(Committer(engine)) as committer:
        committer.on_commit.append(lambda: commits.append(len(results)))
        engine.gate.clear()
        committer.put(append("first"), partial(note, "first"))
        await wait_all_tasks_blocked()
        for name in ("second", "third"):
            committer.put(append(name), partial(note, name))
        assert committer.waiting == committer.waiting_messages == 3
        assert results == []
        engine.gate.set()
        await committer.flush()
    assert results == [(name, Outcome("e", number)) for number, name in enumerate(("first", "second", "third"), 1)]
    assert list(map(len, engine.commits)) == [1, 2]
    assert commits == [1, 3]
    assert (committer.statistics.commits, committer.statistics.entries) == (2, 3)
    assert committer.statistics.seconds > 0
    assert committer.waiting_bytes == 0


async def test_the_engine_is_used_in_one_other_thread_and_closed_there(engine: FaultyEngine) -> None:
    async with running(Committer(engine, sync_every_s=60)) as committer:
        committer.put(append())
        await committer.flush()
    assert engine.is_closed
    assert engine.syncs == 1  # at the end, without a wait of a minute
    assert len(engine.threads) == 1
    assert threading.get_ident() not in engine.threads


async def test_a_commit_is_followed_by_a_sync_within_the_interval(engine: FaultyEngine) -> None:
    async with running(Committer(engine, sync_every_s=0.001)) as committer:
        await trio.sleep(0.01)
        assert engine.syncs == 0  # nothing was committed
        committer.put(append())
        await until(lambda: engine.syncs)
        await trio.sleep(0.01)
    assert engine.syncs == 1


async def test_after_a_failed_sync_nothing_is_stored_any_more(
    engine: FaultyEngine, caplog: pytest.LogCaptureFixture
) -> None:
    results: list[Result] = []
    fault = engine.sync_fault = StoreBroken("an fsync has failed")
    async with running(Committer(engine, sync_every_s=0)) as committer:
        committer.put(append(), results.append)
        await committer.flush()
        await wait_all_tasks_blocked(0.01)
        assert committer.is_broken
        assert committer.is_held
        engine.sync_fault = None
        committer.put(append(), results.append)
        assert len(results) == 1  # not within the call
        await committer.flush()
    assert results == [Outcome("e", 1), fault]
    assert len(engine.commits) == 1
    (line,) = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert "nothing is stored any more until the server is started again: an fsync has failed" in line.getMessage()


@pytest.mark.usefixtures("quick")
async def test_a_full_disk_holds_publishers_and_loses_nothing(
    engine: FaultyEngine, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    results: list[Result] = []
    changes: list[bool] = []
    engine.fault = FULL
    async with running(Committer(engine)) as committer:
        committer.on_change.append(lambda: changes.append(committer.is_held))
        committer.put(append("one"), results.append)
        await until(lambda: committer.trouble is FULL)
        committer.put(append("two"), results.append)
        await until(lambda: engine.tries > 3)
        assert results == []
        engine.fault = None
        await committer.ready()
        await committer.flush()
    assert results == [Outcome("e", 1), Outcome("e", 2)]
    assert changes == [True, False]
    lines = [record.getMessage() for record in caplog.records if record.name == "rawws.server"]
    assert [line for line in lines if "nothing can be stored: there is no space left" in line] == lines[:1]
    assert "the store takes messages again" in lines[-1]


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("fault", [None, StoreBroken("the file is damaged")])
async def test_a_store_is_tried_again_even_if_nothing_waits(engine: FaultyEngine, fault: StoreError | None) -> None:
    engine.fault = FULL
    async with running(Committer(engine)) as committer:
        waiting = committer.put(append())
        await until(lambda: committer.trouble)
        await until(lambda: committer.withdraw(waiting))  # between two tries
        await until(lambda: engine.tries > 3)
        assert committer.trouble is FULL
        engine.fault = fault
        await until(lambda: committer.trouble is fault)
    assert engine.commits == ([] if fault else [list(PROBE)])


@pytest.mark.usefixtures("quick")
async def test_a_store_is_tended_ever_more_rarely_while_nothing_is_committed(
    engine: FaultyEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(committer_module, "TEND_S", 0.01)
    async with running(Committer(engine)) as committer:
        began = trio.current_time()
        await until(lambda: engine.tended == 3)
        assert trio.current_time() - began >= 0.02 + 0.04  # the first rest has begun before
        assert engine.commits == []
        assert committer.statistics.commits == 0


async def test_a_store_is_tended_at_once_while_there_is_more_to_do(
    engine: FaultyEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(committer_module, "TEND_S", 0.01)
    monkeypatch.setattr(committer_module, "MAX_TEND_S", 1e9)
    engine.more_to_tend = 100
    async with running(Committer(engine)):
        await until(lambda: engine.tended == 101)


@pytest.mark.usefixtures("quick")
async def test_a_store_without_space_is_tended_before_each_try(engine: FaultyEngine) -> None:
    engine.fault = FULL
    async with running(Committer(engine)) as committer:
        committer.put(append())
        await until(lambda: engine.tended > 2)
        engine.fault, engine.tend_fault = None, StoreError("it can't be written just now")
        await committer.flush()
        assert committer.failure is None


@pytest.mark.parametrize("fault", [StoreBroken("an fsync has failed"), ZeroDivisionError("a bug")], ids=repr)
async def test_a_store_may_break_while_it_is_tended(
    engine: FaultyEngine, monkeypatch: pytest.MonkeyPatch, fault: Exception
) -> None:
    monkeypatch.setattr(committer_module, "TEND_S", 0.001)
    engine.tend_fault = fault
    results: list[Result] = []
    async with running(Committer(engine)) as committer:
        await until(lambda: committer.is_broken)
        committer.put(append(), results.append)
        await committer.flush()
    assert [type(result) for result in results] == [StoreBroken]


class BoundedEngine(FaultyEngine):
    """An engine that has no space for messages, as long as a test says so."""

    limit: StoreError | None = StoreLimit("the store has as many bytes as it may")
    group_fault: Exception | None = None

    def commit(self, entries: Sequence[Entry]) -> list[Outcome]:
        if self.limit is not None and any(isinstance(entry, Append) for entry in entries):
            raise self.limit
        if self.group_fault is not None:
            fault, self.group_fault = self.group_fault, None
            raise fault
        return super().commit(entries)


async def test_groups_go_on_while_accepted_messages_wait_for_space(caplog: pytest.LogCaptureFixture) -> None:
    engine = BoundedEngine()
    results: list[Result] = []
    async with running(Committer(engine)) as committer:
        message = committer.put(append(), results.append)
        for number in range(1, 4):
            done = trio.Event()
            committer.put(GroupWrite("/a", "g", number), lambda _, done=done: done.set())  # type: ignore[misc]
            await done.wait()
            assert committer.failure is engine.limit
        assert committer.waiting == 1
        assert committer.waiting_bytes == message.held_bytes
        assert not results
        engine.limit = None
        await committer.flush()
        assert committer.failure is None
    assert engine.commits == [*([GroupWrite("/a", "g", number)] for number in range(1, 4)), [append()]]
    assert results == [Outcome("e", 1)]
    assert len([record for record in caplog.records if "nothing can be stored" in record.getMessage()]) == 1


@pytest.mark.parametrize("fault", [FULL, ZeroDivisionError("an error of ours")])
async def test_groups_that_cannot_go_on_either_are_tried_again(fault: Exception) -> None:
    engine = BoundedEngine()
    engine.group_fault = fault
    async with running(Committer(engine)) as committer:
        done = trio.Event()
        committer.put(append())
        committer.put(GroupWrite("/a", "g", 1), lambda _: done.set())
        await done.wait()
        engine.limit = None
        await committer.flush()
    assert engine.commits == [[GroupWrite("/a", "g", 1)], [append()]]


async def test_a_store_that_breaks_while_messages_wait_for_space_fails_all() -> None:
    engine = BoundedEngine()
    engine.group_fault = StoreBroken("an fsync has failed")
    results: list[Result] = []
    async with running(Committer(engine)) as committer:
        committer.put(append(), results.append)
        committer.put(GroupWrite("/a", "g", 1), results.append)
        await committer.flush()
    assert [type(result) for result in results] == [StoreBroken, StoreBroken]


async def test_a_store_that_is_short_of_space_holds_publishers_and_stores_what_was_accepted(
    engine: FaultyEngine, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(committer_module, "TEND_S", 0.001)
    changes: list[bool] = []
    engine.shortage = StoreLimit("the store has as many bytes as it may")
    async with running(Committer(engine)) as committer:
        assert committer.trouble is engine.shortage
        assert committer.failure is None
        committer.on_change.append(lambda: changes.append(committer.is_held))
        committer.put(append())
        await committer.flush()
        assert committer.is_held
        engine.shortage = None
        await committer.ready()
    assert changes == [False]
    lines = [record.getMessage() for record in caplog.records if record.name == "rawws.server"]
    assert "no messages are taken for now: the store has as many bytes as it may; readers stay" in lines[0]
    assert "the store has space for messages again" in lines[1]


async def test_a_message_that_no_store_could_take_does_not_hold_up_the_others(
    engine: FaultyEngine, caplog: pytest.LogCaptureFixture
) -> None:
    results: list[Result] = []
    async with running(Committer(engine)) as committer:
        for text in ("one", "huge", "two"):
            committer.put(append(text), results.append)
        await committer.flush()
    assert results[0::2] == [Outcome("e", 2), Outcome("e", 3)]  # the engine of this test undoes nothing
    assert isinstance(results[1], StoreUnfit)
    (line,) = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert "a message for /x is lost: it is too large" in line.getMessage()
    assert line.exc_info is None


@pytest.mark.parametrize(
    "fault", [None, FULL, StoreBroken("an fsync has failed"), ZeroDivisionError("a bug")], ids=repr
)
async def test_the_end_of_a_commit_is_waited_for(engine: FaultyEngine, fault: Exception | None) -> None:
    results: list[Result] = []
    async with running(Committer(engine)) as committer:
        await committer.told()
        engine.gate.clear()
        committer.put(append(), results.append)
        await wait_all_tasks_blocked()
        engine.fault = fault
        async with trio.open_nursery() as nursery:
            nursery.start_soon(committer.told)
            await wait_all_tasks_blocked()
            assert results == []
            engine.gate.set()
        assert committer.failure is not None or len(results) == 1
        engine.fault = None


async def test_an_entry_can_be_withdrawn_until_it_is_committed(engine: FaultyEngine) -> None:
    results: list[Result] = []
    async with running(Committer(engine)) as committer:
        engine.gate.clear()
        under_way = committer.put(append("one"), results.append)
        await wait_all_tasks_blocked()
        withdrawn = committer.put(append("two"), results.append)
        assert not committer.withdraw(under_way)
        assert committer.withdraw(withdrawn)
        assert not committer.withdraw(withdrawn)
        engine.gate.set()
        await committer.flush()
    assert results == [Outcome("e", 1)]
    assert len(engine.commits) == 1


async def test_publishers_wait_while_too_many_bytes_do(engine: FaultyEngine) -> None:
    changes: list[bool] = []
    async with running(Committer(engine, max_waiting_bytes=2000)) as committer:
        committer.on_change.append(lambda: changes.append(committer.is_held))
        engine.gate.clear()
        committer.put(append("x" * 500))
        assert not committer.is_full
        committer.put(append("x" * 500))
        assert committer.is_full
        committer.put(append("x" * 500))  # accepted all the same
        engine.gate.set()
        await committer.ready()
    assert changes == [True, False]
    assert sum(map(len, engine.commits)) == 3


async def test_an_entry_that_cannot_be_stored_does_not_hold_up_the_others(
    engine: FaultyEngine, caplog: pytest.LogCaptureFixture
) -> None:
    results: list[Result] = []
    async with running(Committer(engine)) as committer:
        for text in ("one", "poison", "two"):
            committer.put(append(text), results.append)
        await committer.flush()
    assert results[0::2] == [Outcome("e", 2), Outcome("e", 3)]  # the engine of this test undoes nothing
    assert isinstance(results[1], StoreError)
    assert "an error in rawws itself, while an entry is stored" in caplog.text


async def test_an_owner_that_fails_does_not_hold_up_the_others(
    engine: FaultyEngine, caplog: pytest.LogCaptureFixture
) -> None:
    results: list[Result] = []

    def fail(_: Result) -> None:
        raise ZeroDivisionError

    async with running(Committer(engine)) as committer:
        committer.put(append(), fail)
        committer.put(append(), results.append)
        await committer.flush()
    assert results == [Outcome("e", 2)]
    assert "an error in rawws itself, after a commit" in caplog.text


async def test_a_break_tells_all_that_wait(engine: FaultyEngine, caplog: pytest.LogCaptureFixture) -> None:
    results: list[Result] = []
    engine.fault = StoreBroken("an fsync has failed")
    async with running(Committer(engine)) as committer:
        committer.put(append(), results.append)
        committer.put(Clear("/x", 1), results.append)
        committer.put(GroupWrite("/x", "g", 1, (Job(1, 1, 0.0, "a"),)), results.append)
        await committer.flush()
        assert committer.waiting_bytes == 0
    assert results == [engine.fault] * 3
    assert "messages that may be lost: 1" in caplog.text


async def test_entries_that_wait_at_the_end_are_counted(engine: FaultyEngine) -> None:
    async with running(Committer(engine)) as committer:
        engine.fault = FULL
        committer.put(append())
        with trio.move_on_after(0.05):
            await committer.flush()
    assert committer.lost_messages == 1
    assert "broken waiting=0" in repr(committer)  # since it is closed


def _hold(_frames: list[bytes], _: Result) -> None:
    """Refer to frames, as the rooms over a store do until these are stored."""


@pytest.mark.parametrize("size", [1, 100, 10_000])
async def test_entries_that_wait_count_as_the_memory_that_they_use(engine: FaultyEngine, size: int) -> None:
    committer = Committer(engine)
    with traced_memory() as count:
        for number in range(1000):
            frames = [b"%d" % (number % 10) * size]
            entry = Append("/x", b"".join(frames), 1, HISTORY)
            committer.put(entry, partial(_hold, frames))
        used, _ = count()
    assert used / 1.5 < committer.held_bytes() < 1.5 * used


async def test_the_memory_of_what_waits_is_part_of_the_servers(engine: FaultyEngine) -> None:
    async with running(Committer(engine)) as committer:
        engine.gate.clear()
        before = current_loop().memory.used_bytes()
        committer.put(append("x" * 1000), more_bytes=5000)
        assert current_loop().memory.used_bytes() - before > 6000
        engine.gate.set()
        await committer.flush()
        assert current_loop().memory.used_bytes() == before
