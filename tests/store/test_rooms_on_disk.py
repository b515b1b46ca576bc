"""The bounds of rooms on the disk, as clients see them, and how long a room is remembered there."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import trio

from rawws import Hub, UsageError
from rawws.limits import LEAST_STORE_BYTES
from rawws.store import loaded_room, retention, sqlite_engine, stored_rooms
from rawws.store.entries import Entry, Keep, Outcome
from rawws.store.file_bounds import FileLimit
from rawws.store.memory_engine import MemoryEngine
from rawws.store.sqlite_engine import SqliteEngine
from tests.room_serving import Rooms, on_one_store, post, rooms
from tests.serving.client import Client
from tests.serving.wire import get, text, upgrade
from tests.store.stores import Clock, message
from tests.traced_memory import traced_memory

pytestmark = pytest.mark.usefixtures("bounded")

IDS = "Sec-WebSocket-Protocol: rawws.id.v1"
Start = Callable[..., Any]


@pytest.fixture
def start(nursery: trio.Nursery, quick_path: Path) -> Start:
    """Start a server on the same store each time."""
    return on_one_store(nursery, quick_path / "rooms.db")


@pytest.fixture
def forgetful(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have each commit forget all rooms of which nothing is left."""
    monkeypatch.setattr(sqlite_engine, "RETURN_S", -1.0)
    monkeypatch.setattr(sqlite_engine, "SWEEP_S", -1.0)
    for module in (retention, sqlite_engine):
        monkeypatch.setattr(module, "FORGOTTEN_AFTER_S", -1.0)


async def until(is_true: Callable[[], object]) -> None:
    while not is_true():
        await trio.sleep(0.001)


async def listen(running: Rooms, target: str) -> tuple[Client, dict[str, Any]]:
    """Return a WebSocket with ids, and its greeting."""
    client = await running.open(target, IDS)
    return client, json.loads((await client.frame()).payload)


async def received(client: Client) -> tuple[str, str]:
    head, _, body = (await client.frame()).payload.partition(b"\n")
    return json.loads(head)["id"], body.decode()


def engine_of(running: Rooms) -> SqliteEngine:
    stored: Any = running.hub.stored
    engine: SqliteEngine = stored.committer.engine
    return engine


# Rooms


async def test_a_stranger_makes_no_more_rooms_than_the_store_may_have(start: Start) -> None:
    async with start(store_rooms=3) as running:
        for number in range(3):
            await running.publish(f"/{number}", "x")
        refused = await running.ask(post("/more", b"x"))
        assert (refused.status, b"as many rooms as it may (--store-rooms 3)" in refused.body) == (503, True)
        assert refused.headers["retry-after"]
        assert (await running.ask(get("/more?since=0-0"))).status == 503
        client = await running.connect()
        await client.send(upgrade("/more"))
        assert (await client.answer()).status == 503
        assert (await running.ask(post("/1", b"x"))).status == 202
        assert len((await running.poll("/1?last=9"))["messages"]) == 2
        assert engine_of(running).usage.rooms == 3
        running.hub.room("/of the program").publish("x")
        await until(lambda: engine_of(running).usage.rooms == 4)


async def test_a_client_that_was_let_into_a_room_may_publish_there(start: Start) -> None:
    async with start(store_rooms=2) as running:
        await running.publish("/1", "x")
        writer = await running.open("/2")
        assert (await running.ask(post("/3", b"x"))).status == 503
        assert (await running.ask(get("/3?since=0-0"))).status == 503
        await writer.send(text("hi"))
        assert (await writer.frame()).payload == b"hi"
        assert engine_of(running).usage.rooms == 2


async def test_jobs_in_memory_have_a_number_of_rooms_too(nursery: trio.Nursery) -> None:
    async with rooms(nursery, queue_in_memory=True, store_rooms=1) as running:
        await running.publish("/1", "x")
        assert (await running.ask(post("/2", b"x"))).status == 503


# Bytes


async def test_publishers_are_refused_at_the_limit_of_the_file_and_go_on_afterwards(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    from rawws.store import committer

    monkeypatch.setattr(committer, "TEND_S", 0.01)
    monkeypatch.setattr(sqlite_engine, "SWEEP_S", 0.01)
    async with start(
        store_bytes=LEAST_STORE_BYTES, store_sync="never", history_age_s=3600.0, history_bytes=1 << 30
    ) as running:
        reader, _ = await listen(running, "/reader")
        while (answer := await running.ask(post("/filled", bytes(200_000), content_type="x/y"))).status == 202:
            assert os.stat(engine_of(running).path).st_size <= LEAST_STORE_BYTES
        assert (answer.status, b"no space left for messages" in answer.body) == (507, True)
        assert running.hub.obstacle == "nothing can be stored: the store has as many bytes as it may (--store-bytes)"
        writer = await running.open("/reader")
        await writer.send(text("one"))
        await writer.send(text("two"))
        # Somebody makes space: an operator clears the room.
        assert running.hub.stored is not None
        assert await running.hub.prepare("/filled") is None
        assert await running.hub.stored.clear(running.hub.registry.get("/filled")) is None
        assert [(await received(reader))[1] for _ in range(2)] == ["one", "two"]
        await until(lambda: not running.hub.obstacle)
        assert (await running.ask(post("/filled", b"x"))).status == 202


async def test_a_message_that_is_too_large_for_the_store_is_refused(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FileLimit, "fits", lambda _, size: size < 100)
    async with start(store_bytes=LEAST_STORE_BYTES) as running:
        answer = await running.ask(post("/x", bytes(100)))
        assert (answer.status, b"too large for the server's store (--store-bytes)" in answer.body) == (413, True)
        assert (await running.ask(post("/x", b"x"))).status == 202


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"store_bytes": 1000}, "store_bytes can't be 1000; give a whole number that is 8388608 or more"),
        ({"store_rooms": 0}, "store_rooms can't be 0; give a whole number that is 1 or more"),
    ],
)
async def test_a_bound_that_leaves_no_space_is_refused(settings: dict[str, Any], why: str) -> None:
    with pytest.raises(UsageError, match=why):
        Hub(store="x", **settings)


# How long a room is remembered


@pytest.mark.usefixtures("forgetful")
async def test_a_reader_of_a_room_that_was_forgotten_gets_no_gap(start: Start) -> None:
    async with start(history=0) as running:
        reader, _ = await listen(running, "/x")
        one = (await running.publish("/x", "one"))["id"]
        assert await received(reader) == (one, "one")
        await running.publish("/other", "x")
        assert engine_of(running).tail("/x") is None
        for number in (2, 3):
            given = (await running.publish("/x", str(number)))["id"]
            assert given == f"{one[:-1]}{number}"
            assert await received(reader) == (given, str(number))
        writer = await running.open("/x")
        await running.publish("/other", "x")
        await writer.send(text("4"))
        assert await received(reader) == (f"{one[:-1]}4", "4")


@pytest.mark.parametrize("is_there", [True, False], ids=["a reader that is there", "a reader that has gone"])
async def test_a_room_that_has_readers_is_kept_in_the_store(
    start: Start, monkeypatch: pytest.MonkeyPatch, *, is_there: bool
) -> None:
    kept: list[str] = []
    commit = SqliteEngine.commit

    def note(engine: SqliteEngine, entries: Sequence[Entry]) -> list[Outcome]:
        kept.extend(entry.path for entry in entries if isinstance(entry, Keep))
        return commit(engine, entries)

    monkeypatch.setattr(SqliteEngine, "commit", note)
    monkeypatch.setattr(stored_rooms, "UNUSED_S", 0.02)
    async with start(history=0) as running:
        stored: Any = running.hub.stored
        one = (await running.publish("/x", "one"))["id"]
        await running.poll("/unknown?since=0-0")
        stored._keep_at = float("inf")
        reader, _ = await listen(running, f"/x?since={one}")
        if not is_there:
            reader.hang_up()
            await until(lambda: "/x" not in stored._loaded)
        assert kept == []
        monkeypatch.setattr(stored_rooms, "KEEP_EVERY_S", 0.01)
        stored._keep_at = 0
        await until(lambda: kept)
        await trio.sleep(0.05)
        assert kept == ["/x"]
        monkeypatch.setattr(loaded_room, "KEEP_AFTER_S", 0.01)
        if is_there:
            await until(lambda: len(kept) > 2)


async def test_a_busy_room_is_not_kept_besides(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stored_rooms, "UNUSED_S", 0.02)
    monkeypatch.setattr(stored_rooms, "KEEP_EVERY_S", 0.01)
    async with start() as running:
        reader, _ = await listen(running, "/x")
        await running.publish("/x", "one")
        await received(reader)
        stored: Any = running.hub.stored
        before = stored.committer.statistics.entries
        await trio.sleep(0.1)
        assert stored.committer.statistics.entries == before


# Memory


@pytest.mark.parametrize("rooms_of_messages", [1, 1000])
async def test_a_store_in_memory_counts_as_the_memory_that_it_uses(rooms_of_messages: int) -> None:
    clock = Clock()
    with traced_memory() as count:
        engine = MemoryEngine(clock)
        for number in range(1000):
            engine.commit([message(f"{number}", f"/{number % rooms_of_messages}", once=f"{number}")])
        used, _ = count()
    assert used / 1.5 < engine.held_bytes < 1.5 * used
    clock.now += 1e10
    engine.commit([])
    engine.commit([])
    assert engine.held_bytes == 0
