"""Groups over a store: jobs from the store to workers and back, restarts, the dead, and the limit of bytes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import trio

from rawws.broadcast.log import History
from rawws.groups.groups import NEEDS_NOTHING, OF_THE_DEAD
from rawws.groups.protocol import GroupQuery, Verb
from rawws.groups.queue import ENDED
from rawws.store.engine import StoreBroken, StoreError
from rawws.store.entries import Append, GroupWrite, Page
from rawws.store.memory_engine import MemoryEngine
from rawws.store.modes import SyncMode
from rawws.store.sqlite_engine import SqliteEngine
from rawws.store.stored_rooms import BROKEN, TROUBLE
from rawws.wire.frames import split_frames
from tests.groups.stores import PATH, Taker, open_group, serving


async def test_a_worker_gets_the_messages_that_were_there_and_those_that_come() -> None:
    async with serving(MemoryEngine()) as (groups, rooms):
        rooms.say("a", b"\x00b")
        await rooms.committer.flush()
        taker = Taker(await open_group(groups))
        assert await taker.wait(1) == [(1, 1, b"a")]
        assert taker.ack(1)
        await taker.wait(2)
        rooms.say("c")
        assert taker.ack(2)
        assert await taker.wait(3) == [(1, 1, b"a"), (2, 1, b"\x00b"), (3, 1, b"c")]
        state = taker.runner.state()
        assert (state.waiting, state.leased, state.done, state.workers) == (0, 1, 2, 1)
        assert state.oldest == f"{taker.runner.epoch}-3"


async def test_a_lease_is_stored_before_its_job_is_sent() -> None:
    engine = MemoryEngine()
    async with serving(engine) as (groups, rooms):
        rooms.say("a")
        taker = Taker(await open_group(groups))
        await taker.wait(1)
        (state,) = engine.groups()
        assert [(job.number, job.tries, job.lease) for job in state.jobs] == [(1, 1, "#1")]


async def test_a_group_goes_on_where_it_was_after_a_restart(tmp_path: Path) -> None:
    path = tmp_path / "rooms.db"
    async with serving(SqliteEngine(path, SyncMode.NEVER)) as (groups, rooms):
        rooms.say("a", "b", "c", "d")
        taker = Taker(await open_group(groups), most=2)
        await taker.wait(2)
        assert taker.ack(1)
        await taker.wait(3)
        assert taker.say(Verb.NAK, 3, in_s=100)
        await taker.runner.settled()
    async with serving(SqliteEngine(path, SyncMode.NEVER)) as (groups, rooms):
        again = Taker(await open_group(groups), "#9", most=9)
        assert await again.wait(2) == [(2, 2, b"b"), (4, 2, b"d")]
        assert again.runner.state().waiting == 1


@pytest.mark.parametrize(
    ("query", "first"),
    [({}, 3), ({"last": 0}, 5), ({"last": 1}, 4)],
)
async def test_a_new_group_begins_with_the_oldest_message_unless_it_says_otherwise(
    query: dict[str, Any], first: int
) -> None:
    async with serving(MemoryEngine()) as (groups, rooms):
        rooms.history = History(2)
        for message in "abcd":
            rooms.say(message)
            await rooms.committer.flush()
        taker = Taker(await open_group(groups, **query))
        rooms.say("e")
        await taker.wait(1)
        assert taker.got[0][0] == first


async def test_unfinished_jobs_are_not_trimmed() -> None:
    engine = MemoryEngine()
    async with serving(engine) as (groups, rooms):
        runner = await open_group(groups)
        await runner.settled()
        rooms.say(*(f"{number}" for number in range(30)))
        for number in range(30):
            rooms.say(f"x{number}")
        taker = Taker(runner, most=60)
        assert len(await taker.wait(60)) == 60


async def test_a_poison_job_is_dead_after_exactly_five_tries_and_keeps_its_payload() -> None:
    engine = MemoryEngine()
    async with serving(engine) as (groups, rooms):
        rooms.say("poison")
        taker = Taker(await open_group(groups))
        for tried in range(1, 6):
            assert (await taker.wait(tried))[-1] == (1, tried, b"poison")
            assert taker.say(Verb.NAK, 1, why="can't")
        await taker.runner.settled()
        page = engine.read(f"{PATH}.sms.dead", 0, 10, 1000)
        assert page is not None
        ((_, payload),) = split_frames(page.records[0].frames or b"")
        head, _, rest = bytes(payload).partition(b"\n")
        expected = {"id": f"{taker.runner.epoch}-1", "group": "sms", "tries": 5, "reason": "can't", "worker": "#1"}
        assert json.loads(head) == expected
        assert rest == b"poison"
        assert taker.runner.state().dead == 1
        assert engine.groups()[0].jobs == ()


class WatchedEngine(MemoryEngine):
    """Keeps the entries of each commit, and fails when it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.commits: list[list[object]] = []
        self.fails: StoreError | None = None
        self.reads_fail = 0

    def commit(self, entries):  # type: ignore[no-untyped-def]
        if self.fails is not None:
            raise self.fails
        self.commits.append(list(entries))
        return super().commit(entries)

    def read(self, path: str, after: int, most_messages: int, most_bytes: int) -> Page | None:
        if self.reads_fail:
            self.reads_fail -= 1
            raise StoreError("disk I/O error")
        return super().read(path, after, most_messages, most_bytes)


async def test_a_dead_job_is_finished_in_the_commit_that_stores_it_elsewhere() -> None:
    engine = WatchedEngine()
    async with serving(engine) as (groups, rooms):
        rooms.say("a")
        taker = Taker(await open_group(groups))
        await taker.wait(1)
        taker.say(Verb.TERM, 1, why="no")
        await taker.runner.settled()
        (commit,) = [each for each in engine.commits if any(getattr(entry, "done", ()) for entry in each)]
        mark, *others = commit  # that the room has dead jobs
        assert mark == GroupWrite(f"{PATH}.sms.dead", OF_THE_DEAD, NEEDS_NOTHING)
        assert [type(entry) for entry in others] == [Append, GroupWrite]


async def test_a_worker_that_goes_gives_its_jobs_back() -> None:
    async with serving(MemoryEngine()) as (groups, rooms):
        rooms.say("a", "b")
        runner = await open_group(groups)
        taker = Taker(runner, most=2)
        await taker.wait(2)
        runner.leave(taker.worker)
        other = Taker(runner, "#2", most=2)
        assert await other.wait(2) == [(1, 2, b"a"), (2, 2, b"b")]
        assert not taker.ack(1)


async def test_a_worker_that_may_not_work_any_more_is_sent_away() -> None:
    async with serving(MemoryEngine()) as (groups, rooms):
        runner = await open_group(groups)
        taker = Taker(runner)
        taker.refusal = ENDED
        rooms.say("a")
        await taker.wait(1)
        assert taker.ended is ENDED
        other = Taker(runner, "#2")
        assert await other.wait(1) == [(1, 1, b"a")]


async def test_a_worker_that_is_full_gets_its_jobs_later() -> None:
    async with serving(MemoryEngine()) as (groups, rooms):
        runner = await open_group(groups)
        taker = Taker(runner, most=2)
        runner.group.pause(taker.worker)
        rooms.say("a")
        await rooms.committer.flush()
        await runner.settled()
        assert taker.got == []
        runner.group.resume(taker.worker)
        runner.kick()
        assert await taker.wait(1) == [(1, 1, b"a")]


async def test_publishers_wait_while_the_groups_keep_too_much(caplog: pytest.LogCaptureFixture) -> None:
    async with serving(MemoryEngine(), queue_bytes=1000) as (groups, rooms):
        runner = await open_group(groups)
        for _ in range(6):
            rooms.say("x" * 98)
        await rooms.committer.flush()
        assert "keep 500 bytes, of 1000 (--queue-bytes): when the limit is reached, publishers have to" in caplog.text
        assert "the group sms is furthest behind (messages: 5, no worker)" in caplog.text
        assert groups.refuse_publishing(PATH) is None
        for _ in range(4):
            rooms.say("x" * 98)
        await rooms.committer.flush()
        assert rooms.held == [(PATH, True)]
        refusal = groups.refuse_publishing(PATH)
        assert refusal is not None
        assert refusal.status == 507
        taker = Taker(runner)
        await taker.wait(1)
        assert taker.ack(1)
        await taker.wait(2)
        await runner.settled()
        assert rooms.held == [(PATH, True), (PATH, False)]
        assert await groups.end(PATH, "sms")
        assert not await groups.end(PATH, "sms")
        assert taker.ended is ENDED


async def test_bytes_that_a_group_keeps_are_counted_after_a_restart(tmp_path: Path) -> None:
    path = tmp_path / "rooms.db"
    async with serving(SqliteEngine(path, SyncMode.NEVER)) as (groups, rooms):
        runner = await open_group(groups)
        await runner.settled()
        for _ in range(12):
            rooms.say("x" * 98)
        await rooms.committer.flush()
    async with serving(SqliteEngine(path, SyncMode.NEVER), queue_bytes=1000) as (groups, rooms):
        assert rooms.held == [(PATH, True)]
        await groups.end(PATH, "sms")
        assert rooms.held == [(PATH, True), (PATH, False)]


async def test_a_group_that_is_ended_begins_anew() -> None:
    engine = MemoryEngine()
    async with serving(engine) as (groups, rooms):
        rooms.say("a")
        taker = Taker(await open_group(groups))
        await taker.wait(1)
        assert await groups.end(PATH, "sms")
        await rooms.committer.flush()
        assert engine.groups() == []
        again = Taker(await open_group(groups))
        assert await again.wait(1) == [(1, 1, b"a")]


async def test_a_group_stops_when_nothing_can_be_stored_any_more() -> None:
    engine = WatchedEngine()
    async with serving(engine) as (groups, rooms):
        rooms.say("a", "b")
        taker = Taker(await open_group(groups))
        await taker.wait(1)
        engine.fails = StoreBroken("an fsync has failed")
        assert taker.ack(1)
        assert await taker.runner.settled() is BROKEN
        assert taker.ended is BROKEN
        assert await groups.open(PATH, GroupQuery("sms")) is BROKEN
        assert await taker.runner.settled() is BROKEN


async def test_nothing_goes_out_while_nothing_can_be_stored() -> None:
    engine = WatchedEngine()
    async with serving(engine) as (groups, rooms):
        rooms.say("a", "b")
        taker = Taker(await open_group(groups))
        await taker.wait(1)
        engine.fails = StoreError("no space")
        assert taker.ack(1)
        await trio.sleep(0.05)
        assert len(taker.got) == 1
        refusal = await groups.open(PATH, GroupQuery("new"))
        assert getattr(refusal, "code", "") == "store_trouble"
        engine.fails = None
        assert (await taker.wait(2))[1] == (2, 1, b"b")


async def test_a_message_that_can_not_be_read_just_now_is_read_later(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("rawws.groups.runner.REST_S", 0.01)
    engine = WatchedEngine()
    async with serving(engine) as (groups, rooms):
        taker = Taker(await open_group(groups))
        engine.reads_fail = 2
        rooms.say("a")
        assert await taker.wait(1) == [(1, 1, b"a")]
        assert "the group sms of /room/pay can't go on, and tries again: disk I/O error" in caplog.text


async def test_of_each_key_one_job_is_out_even_after_a_restart(tmp_path: Path) -> None:
    path = tmp_path / "rooms.db"
    async with serving(SqliteEngine(path, SyncMode.NEVER)) as (groups, rooms):
        rooms.say("a1", key="a")
        rooms.say("b1", key="b")
        rooms.say("a2", key="a")
        taker = Taker(await open_group(groups), most=9)
        assert [got[0] for got in await taker.wait(2)] == [1, 2]
        await taker.runner.settled()
    async with serving(SqliteEngine(path, SyncMode.NEVER)) as (groups, _):
        taker = Taker(await open_group(groups), most=9)
        assert [got[0] for got in await taker.wait(2)] == [1, 2]
        assert taker.ack(1)
        assert [got[0] for got in await taker.wait(3)] == [1, 2, 3]


async def test_the_number_of_groups_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rawws.groups.groups.MAX_GROUPS_OF_ROOM", 2)
    async with serving(MemoryEngine()) as (groups, _):
        await open_group(groups, "a")
        await open_group(groups, "b")
        found = await groups.open(PATH, GroupQuery("c"))
        assert getattr(found, "code", "") == "too_many_groups"
        assert [figures.group for figures in groups.figures()] == ["a", "b"]


async def test_answers_are_stored_even_while_messages_can_not_be_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rawws.groups.runner.REST_S", 0.01)
    engine = WatchedEngine()
    async with serving(engine) as (groups, rooms):
        rooms.say("a")
        taker = Taker(await open_group(groups))
        await taker.wait(1)
        engine.reads_fail = 1_000_000
        rooms.say("b")
        await rooms.committer.flush()
        assert taker.ack(1)
        await taker.runner.settled()
        assert engine.groups()[0].jobs == ()
        engine.reads_fail = 0
        await taker.wait(2)


class BadEngine(SqliteEngine):
    """Has an error of its own when it is given a write of a group with jobs."""

    is_bad = False

    def commit(self, entries):  # type: ignore[no-untyped-def]
        if self.is_bad and any(isinstance(entry, GroupWrite) and entry.jobs for entry in entries):
            raise ValueError("an error of the engine's own")
        return super().commit(entries)


async def test_a_group_whose_change_is_not_stored_stops_rather_than_forgets(tmp_path: Path) -> None:
    engine = BadEngine(tmp_path / "rooms.db", SyncMode.NEVER)
    async with serving(engine) as (groups, rooms):
        rooms.say("a", "b")
        taker = Taker(await open_group(groups))
        await taker.wait(1)
        engine.is_bad = True
        assert taker.ack(1)
        assert await taker.runner.settled() is BROKEN
        assert taker.ended is BROKEN
    async with serving(SqliteEngine(tmp_path / "rooms.db", SyncMode.NEVER)) as (groups, rooms):
        again = Taker(await open_group(groups), "#2")
        assert await again.wait(1) == [(1, 2, b"a")]
        again.ack(1)
        assert (await again.wait(2))[1] == (2, 1, b"b")


async def test_workers_with_many_places_are_filled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rawws.groups.runner.MOST_AT_ONCE", 10)
    async with serving(MemoryEngine()) as (groups, rooms):
        rooms.say(*(f"{number}" for number in range(30)))
        taker = Taker(await open_group(groups), most=30)
        assert len(await taker.wait(30)) == 30


async def test_requests_about_groups_that_are_refused_leave_nothing_behind() -> None:
    engine = WatchedEngine()
    async with serving(engine) as (groups, rooms):
        await open_group(groups)
        engine.fails = StoreError("no space")
        rooms.say("a")
        while rooms.committer.trouble is None:
            await trio.sleep(0.01)
        for number in range(20):
            assert await groups.open(f"/room/{number}", GroupQuery("sms")) is TROUBLE
        assert list(groups._of_room) == [PATH]
        engine.fails = None


async def test_a_group_whose_room_can_not_be_read_at_first_can_be_opened_later() -> None:
    engine = WatchedEngine()
    async with serving(engine) as (groups, rooms):
        rooms.say("a")
        await rooms.committer.flush()
        for failing in (3, 0, 1, 2):
            reads = iter([0] * failing)
            monkey = engine.read

            def read(path, after, most_messages, most_bytes, reads=reads, real=monkey):  # type: ignore[no-untyped-def]
                if next(reads, None) is None:
                    raise StoreError("disk I/O error")
                return real(path, after, most_messages, most_bytes)

            engine.read = read  # type: ignore[method-assign]
            found = await groups.open(PATH, GroupQuery(f"g{failing}"))
            engine.read = monkey  # type: ignore[method-assign]
            if found is BROKEN:
                assert groups._runners.keys() <= {(PATH, f"g{number}") for number in range(4) if number != failing}
            taker = Taker(await open_group(groups, f"g{failing}"))
            assert await taker.wait(1) == [(1, 1, b"a")]


async def test_publishers_that_go_on_have_some_space(caplog: pytest.LogCaptureFixture) -> None:
    async with serving(MemoryEngine(), queue_bytes=16_000) as (groups, rooms):
        taker = Taker(await open_group(groups), most=1000)
        for _ in range(160):
            rooms.say("x" * 98)
        await taker.wait(160)
        for number in range(1, 101):
            assert taker.ack(number)
            await taker.runner.settled()
            rooms.say("x" * 98)
            await taker.wait(160 + number)
        assert len(rooms.held) <= 1 + 2 * 100 // 10
        assert caplog.text.count("publishers") <= 2 + 2 * 100 // 10
