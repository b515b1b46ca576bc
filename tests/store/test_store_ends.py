"""The store of a hub at the end of a server, and what strangers can have it do."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trio

import rawws
from rawws import Hub, PublishError, UsageError
from rawws.relay.loop import current_loop
from rawws.store.engine import StoreBroken
from rawws.store.modes import SyncMode
from rawws.store.sqlite_engine import SqliteEngine
from tests.room_serving import rooms
from tests.serving.machine import LOOPBACK, PATIENCE_S

pytestmark = pytest.mark.usefixtures("bounded")


async def until(is_true: Callable[[], object]) -> None:
    while not is_true():
        await trio.sleep(0.001)


async def serve(hub: Hub, *, task_status: trio.TaskStatus[Any] = trio.TASK_STATUS_IGNORED) -> None:
    await rawws.serve(hub, 0, host=LOOPBACK, task_status=task_status)


async def test_messages_of_a_program_are_stored_when_its_server_is_cancelled(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    hub = Hub(store=tmp_path / "rooms.db")
    async with trio.open_nursery() as nursery:
        await nursery.start(serve, hub)
        for number in range(10):
            hub.room("/x").publish(str(number))
        nursery.cancel_scope.cancel()
    assert not [each for each in caplog.records if each.levelno >= logging.ERROR]
    engine = SqliteEngine(tmp_path / "rooms.db", SyncMode.ALWAYS)
    tail = engine.tail("/x")
    engine.close()
    assert tail is not None
    assert tail.newest == 10


async def test_two_hubs_of_one_process_cannot_have_one_store(tmp_path: Path) -> None:
    one, two = Hub(store=tmp_path / "rooms.db"), Hub(store=tmp_path / "rooms.db")
    async with trio.open_nursery() as nursery:
        await nursery.start(serve, one)
        with pytest.raises(UsageError, match="is in use by process"):
            await serve(two)
        nursery.cancel_scope.cancel()


async def test_a_program_is_told_at_once_that_a_store_is_broken(nursery: trio.Nursery, tmp_path: Path) -> None:
    async with rooms(nursery, store=tmp_path / "rooms.db") as running:
        stored: Any = running.hub.stored

        def fail(*_: object) -> None:
            raise StoreBroken("an fsync has failed")

        await running.open("/opened")
        waiting = trio.Event()

        async def publisher() -> None:
            await running.hub.room("/opened").ready()
            waiting.set()

        stored._engine.commit = fail
        await running.ask(b"POST /x HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\n\r\nz")
        await until(lambda: stored.committer.is_broken)
        nursery.start_soon(publisher)
        with trio.fail_after(PATIENCE_S):
            await waiting.wait()
        for path in ("/x", "/opened"):
            room = running.hub.room(path)
            with trio.fail_after(PATIENCE_S), pytest.raises(PublishError, match="an fsync has failed"):
                await trio.to_thread.run_sync(lambda room=room: room.publish("hi", wait=True))  # type: ignore[misc]
            with trio.fail_after(PATIENCE_S):
                await room.ready()
            with pytest.raises(PublishError, match="an fsync has failed"):
                room.publish("hi")


async def test_an_unknown_id_does_not_have_a_room_read_from_the_disk_each_time(
    nursery: trio.Nursery, tmp_path: Path
) -> None:
    async with rooms(nursery, store=tmp_path / "rooms.db") as running:
        await running.publish("/x", "hi")
        stored: Any = running.hub.stored
        reads: list[str] = []
        read_last = stored._engine.read_last

        def read(path: str, *bounds: int) -> Any:
            reads.append(path)
            return read_last(path, *bounds)

        stored._engine.read_last = read
        for _ in range(5):
            assert (await running.poll("/x?since=unknown-7"))["gap"]
        assert reads == ["/x"]


async def test_rooms_that_strangers_look_into_are_counted(nursery: trio.Nursery, tmp_path: Path) -> None:
    async with rooms(nursery, store=tmp_path / "rooms.db") as running:
        before = current_loop().memory.used_bytes()
        for number in range(100):
            assert await running.hub.prepare(f"/{number}" + "x" * 5000) is None
        assert current_loop().memory.used_bytes() - before > 100 * (5000 + 2600)
