"""The rooms of dead jobs: only the server publishes there, and only they keep messages for years."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trio

from rawws import RoomSettings
from rawws.access.dead_rooms import group_of_dead_room
from rawws.broadcast.log import History
from rawws.hub.hub import MOST_DEAD_JOBS
from rawws.store import stored_rooms
from rawws.store.looking import StoreView
from rawws.store.sqlite_engine import SqliteEngine
from tests.room_serving import Rooms, on_one_store, post
from tests.serving.wire import get, text

pytestmark = pytest.mark.usefixtures("bounded")

DEAD = "/pay.sms.dead"
Start = Callable[..., Any]


@pytest.fixture
def start(nursery: trio.Nursery, tmp_path: Path) -> Start:
    """Start a server on the same store each time."""
    return on_one_store(nursery, tmp_path / "rooms.db", store_sync="never")


def engine_of(running: Rooms) -> SqliteEngine:
    stored: Any = running.hub.stored
    engine: SqliteEngine = stored.committer.engine
    return engine


async def until(is_true: Callable[[], object]) -> None:
    while not is_true():
        await trio.sleep(0.001)


async def let_a_job_die(running: Rooms, body: str) -> None:
    await running.publish("/pay", body)
    answer = await running.ask(get("/pay?group=sms"))
    job, lease = answer.headers["rawws-id"], answer.headers["rawws-lease"]
    ended = await running.ask(post(f"/pay?group=sms&term={job}&lease={lease}&why=no", b""))
    assert ended.status == 204, ended
    assert group_of_dead_room(DEAD) is not None
    await until(lambda: engine_of(running).tail(DEAD) is not None)


async def dead_jobs(running: Rooms) -> list[str]:
    messages = (await running.poll(f"{DEAD}?last=99"))["messages"]
    return [each["text"].partition("\n")[2] for each in messages]


async def test_a_room_that_only_has_the_name_of_a_dead_one_is_like_any_other(start: Start) -> None:
    async with start(history=3) as running:
        writer = await running.open("/none.x.dead")
        for number in range(10):
            assert (await running.ask(post("/none.x.dead", b"%d" % number))).status == 202
            await writer.frame()
        await writer.send(text("10"))
        await writer.frame()
        room = running.hub.registry.get("/none.x.dead")
        assert room.settings == running.hub.settings
        page = engine_of(running).read("/none.x.dead", 0, 1000, 1 << 30)
        assert page is not None
        assert [record.frames and record.frames[2:] for record in page.records] == [b"8", b"9", b"10"]


async def test_no_client_publishes_in_the_dead_room_of_a_group(start: Start) -> None:
    async with start() as running:
        early = await running.open(DEAD)
        await early.send(text("before there is a group"))
        assert (await early.frame()).payload == b"before there is a group"
        assert (await running.ask(get("/pay?group=sms&wait=0"))).status == 204
        refused = await running.ask(post(DEAD, b"x"))
        assert (refused.status, b"only the server publishes here" in refused.body) == (403, True)
        for writer in (early, await running.open(DEAD)):
            await writer.send(text("x"))
            assert (await writer.frame()).payload[:2] == (1008).to_bytes(2, "big")
        assert (await running.ask(post("/pay.other.dead", b"x"))).status == 202
        running.hub.room(DEAD).publish("the program may")
        await until(lambda: engine_of(running).tail(DEAD).newest == 2)  # type: ignore[union-attr]
        assert running.hub.registry.get(DEAD).settings.history.messages == MOST_DEAD_JOBS


async def test_dead_jobs_are_kept_when_their_group_has_ended_and_over_a_restart(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stored_rooms, "UNUSED_S", 0.01)
    async with start(history=1, history_age_s=0.01) as running:
        for body in ("one", "two"):
            await let_a_job_die(running, body)
        await until(lambda: engine_of(running).tail(DEAD).newest == 2)  # type: ignore[union-attr]
        assert await running.hub.queues.end("/pay", "sms") is True
        assert (await running.ask(post(DEAD, b"x"))).status == 403
        assert await dead_jobs(running) == ["one", "two"]
    for _ in range(2):
        async with start(history=1, history_age_s=0.01) as running:
            assert (await running.ask(post(DEAD, b"x"))).status == 403
            await running.publish("/pay", "another room")
            assert await dead_jobs(running) == ["one", "two"]
            assert [(state.room, state.group) for state in running.hub.queues.figures()] == []


async def test_a_dead_room_without_a_group_and_without_jobs_is_like_any_other(start: Start) -> None:
    async with start() as running:
        await let_a_job_die(running, "one")
        assert await running.hub.queues.end("/pay", "sms") is True
        assert await running.hub.prepare(DEAD) is None
        assert running.hub.stored is not None
        assert await running.hub.stored.clear(running.hub.registry.get(DEAD)) is None
        assert (await running.ask(post(DEAD, b"x"))).status == 403
    async with start() as running:
        assert (await running.ask(post(DEAD, b"x"))).status == 202
    async with start() as running:
        assert engine_of(running).groups() == []


async def test_a_look_into_the_store_shows_no_group_without_a_name(start: Start, tmp_path: Path) -> None:
    async with start() as running:
        await let_a_job_die(running, "one")
        view = StoreView(tmp_path / "rooms.db")
        groups = {seen.room.path: [group.group for group in seen.groups] for seen in view.rooms() if seen}
        view.close()
    assert groups == {"/pay": ["sms"], DEAD: []}


async def test_the_settings_of_a_program_hold_for_dead_rooms_but_for_their_history(start: Start) -> None:
    def settings(_: str) -> RoomSettings:
        return RoomSettings(History(5), max_lag_bytes=12345)

    async with start(settings=settings) as running:
        await let_a_job_die(running, "one")
        chosen = running.hub.registry.get(DEAD).settings
        assert (chosen.max_lag_bytes, chosen.history.messages) == (12345, MOST_DEAD_JOBS)


async def test_a_group_begins_again_with_its_room(start: Start, caplog: pytest.LogCaptureFixture) -> None:
    async with start() as running:
        for number in range(5):
            await running.publish("/pay", f"old {number}")
        worker = await running.open("/pay?group=sms&max=9", "Sec-WebSocket-Protocol: rawws.id.v1")
        jobs = [(await worker.frame()).payload for _ in range(5)]
        old = json.loads(jobs[0].partition(b"\n")[0])["id"]
        engine = engine_of(running)
        engine._writer.execute("UPDATE rooms SET newest = 77")  # a damaged row
        engine._rooms.clear()
        first = (await running.publish("/pay", "new"))["id"]
        assert first.endswith("-1")
        assert first[:8] != old[:8]
        closed = (await worker.frame()).payload
        assert int.from_bytes(closed[:2], "big") == 1013
        assert f"the group sms of /pay begins again with message {first}, since the store has lost" in caplog.text
        again = await running.open("/pay?group=sms&max=9", "Sec-WebSocket-Protocol: rawws.id.v1")
        head, _, body = (await again.frame()).payload.partition(b"\n")
        assert (json.loads(head), body) == ({"id": first, "try": 1}, b"new")
        await again.send(text(json.dumps({"ack": old})))
        assert json.loads((await again.frame()).payload)["lost"] == old
        await again.send(text(json.dumps({"ack": first})))
        await until(lambda: [state.position for state in engine.groups()] == [1])
        await until(lambda: [state.jobs for state in engine.groups()] == [()])
