"""The committer at its limits: who waits is told, whatever has failed, and no entry is taken for another."""

from __future__ import annotations

import threading
from functools import partial

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from rawws.store import committer as committer_module
from rawws.store.committer import Committer
from rawws.store.engine import StoreBroken, StoreError
from rawws.store.entries import Outcome
from rawws.store.waiting import Result
from tests.serving.machine import PATIENCE_S
from tests.store.faulty_engine import FaultyEngine
from tests.store.test_committer import FULL, append, running, until

pytestmark = pytest.mark.usefixtures("bounded")


@pytest.fixture
def engine() -> FaultyEngine:
    return FaultyEngine()


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have a committer try again soon. A mock clock would jump while the thread works."""
    monkeypatch.setattr(committer_module, "FIRST_REST_S", 0.001)
    monkeypatch.setattr(committer_module, "MAX_REST_S", 0.002)


@pytest.mark.usefixtures("quick")
async def test_publishers_go_on_when_a_probe_finds_space_again(engine: FaultyEngine, nursery: trio.Nursery) -> None:
    async with running(Committer(engine)) as committer:
        engine.fault = FULL
        waiting = committer.put(append())
        await until(lambda: committer.trouble)
        # Its client has given up, so nobody has anything for the store.
        await until(lambda: committer.withdraw(waiting))
        went_on = trio.Event()

        async def publisher() -> None:
            await committer.ready()
            went_on.set()

        nursery.start_soon(publisher)
        await wait_all_tasks_blocked()
        engine.fault = None
        await went_on.wait()


async def test_publishers_do_not_wait_for_a_broken_store(engine: FaultyEngine) -> None:
    async with running(Committer(engine)) as committer:
        engine.fault = StoreBroken("an fsync has failed")
        committer.put(append())
        await until(lambda: committer.trouble)
        await committer.ready()


async def test_an_entry_is_not_withdrawn_while_it_is_committed_alone(engine: FaultyEngine) -> None:
    """One of the entries can't be committed, so each is committed by itself."""
    results: list[tuple[str, Result]] = []
    gates = [threading.Event() for _ in range(4)]
    commit = engine.commit
    calls = iter(gates)

    def gated(entries: object) -> list[Outcome]:
        next(calls).wait()
        return commit(entries)  # type: ignore[arg-type]

    engine.commit = gated  # type: ignore[method-assign]

    def note(name: str, result: Result) -> None:
        results.append((name, result))

    async with running(Committer(engine)) as committer:
        committer.put(append("poison"), partial(note, "poison"))
        second = committer.put(append("second"), partial(note, "second"))
        third = committer.put(append("third"), partial(note, "third"))
        gates[0].set()
        gates[1].set()
        await until(lambda: results)
        await wait_all_tasks_blocked()
        assert not committer.withdraw(second)  # it is under way
        assert committer.withdraw(third)
        fourth = committer.put(append("fourth"), partial(note, "fourth"))
        gates[2].set()
        gates[3].set()
        await committer.flush()
        assert not committer.withdraw(fourth)
    assert [name for name, _ in results] == ["poison", "second", "fourth"]
    assert isinstance(results[0][1], StoreError)
    assert [result for _, result in results[1:]] == [Outcome("e", 1), Outcome("e", 2)]


async def test_entries_that_wait_at_the_end_are_told(engine: FaultyEngine) -> None:
    results: list[Result] = []
    async with running(Committer(engine)) as committer:
        engine.fault = FULL
        committer.put(append(), results.append)
        await until(lambda: committer.trouble)
    assert [str(each) for each in results] == ["it is closed"]
    assert committer.lost_messages == 1
    assert committer.waiting_bytes == 0


async def test_a_failure_of_who_follows_the_commits_is_no_failure_of_the_store(engine: FaultyEngine) -> None:
    def fail(*_: object) -> None:
        raise ZeroDivisionError

    results: list[Result] = []
    async with running(Committer(engine)) as committer:
        committer.on_append.append(fail)
        committer.put(append(), results.append)
        await committer.flush()
        committer.put(append(), results.append)
        await committer.flush()
    assert results == [Outcome("e", 1), Outcome("e", 2)]


async def test_a_broken_committer_rests(engine: FaultyEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(committer_module, "TEND_S", 0.001)
    async with running(Committer(engine)) as committer:
        engine.fault = StoreBroken("an fsync has failed")
        committer.put(append())
        await until(lambda: committer.is_broken)
        await trio.sleep(0.01)  # a sweep would be due
        with trio.fail_after(PATIENCE_S):
            await wait_all_tasks_blocked(0.01)


async def test_a_commit_is_synced_in_time_while_later_ones_fail(
    engine: FaultyEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(committer_module, "FIRST_REST_S", 3600.0)
    monkeypatch.setattr(committer_module, "MAX_REST_S", 3600.0)
    async with running(Committer(engine, sync_every_s=0.05)) as committer:
        committer.put(append())
        await committer.flush()
        engine.fault = FULL
        committer.put(append())
        await until(lambda: committer.trouble)
        with trio.fail_after(PATIENCE_S):
            await until(lambda: engine.syncs)
