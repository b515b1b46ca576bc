"""Rooms over a store: the same ids over a restart, nothing told before it is stored, clean answers when it fails."""

from __future__ import annotations

import functools
import json
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

import rawws
from rawws import Hub, NotServing, PublishError, UsageError
from rawws.broadcast.log import History
from rawws.broadcast.node_answers import Gathered
from rawws.broadcast.outbox import Outgoing
from rawws.hub.closed_store import ClosedStore
from rawws.hub.room import state_of
from rawws.relay.backplane import AWAY
from rawws.store import committer, stored_rooms
from rawws.store.engine import StoreBroken, StoreError, StoreFull
from rawws.store.entries import Entry, Outcome, Page, Record
from rawws.store.loaded_room import read_history, times_of
from rawws.store.sqlite_engine import SqliteEngine
from rawws.wire.frames import Opcode
from tests.room_serving import Rooms, on_one_store
from tests.serving.client import Client
from tests.serving.machine import LOOPBACK
from tests.serving.wire import get, text

pytestmark = pytest.mark.usefixtures("bounded")

IDS = "Sec-WebSocket-Protocol: rawws.id.v1"
Start = Callable[..., Any]


@pytest.fixture
def start(nursery: trio.Nursery, tmp_path: Path) -> Start:
    """Start a server on the same store each time."""
    return on_one_store(nursery, tmp_path / "rooms.db")


async def until(is_true: Callable[[], object]) -> None:
    while not is_true():
        await trio.sleep(0.001)


async def listen(running: Rooms, target: str) -> tuple[Client, dict[str, Any]]:
    """Return a WebSocket with ids, and its greeting."""
    client = await running.open(target, IDS)
    return client, json.loads((await client.frame()).payload)


async def message(client: Client) -> tuple[str, str]:
    head, _, body = (await client.frame()).payload.partition(b"\n")
    return json.loads(head)["id"], body.decode()


def broken(error: StoreError) -> Callable[..., Any]:
    def fail(*_: object) -> list[Outcome]:
        raise error

    return fail


async def test_ids_go_on_over_a_restart_for_every_kind_of_reader(start: Start) -> None:
    async with start() as running:
        assert (await running.poll("/x?since=0-0"))["next"] == "0-0"
        one = (await running.publish("/x", "one", "Idempotency-Key: k"))["id"]
        writer = await running.open("/x")
        await writer.send(text("two"))
        assert (await writer.frame()).payload == b"two"
        assert (await running.poll("/x?since=0-0"))["messages"][0]["id"] == one
    async with start() as running:
        assert (await running.publish("/x", "one", "Idempotency-Key: k"))["id"] == one
        refused = await running.ask(
            b"POST /x HTTP/1.1\r\nHost: localhost\r\nIdempotency-Key: k\r\nContent-Length: 1\r\n\r\nz"
        )
        assert refused.status == 422
        polled = await running.poll(f"/x?since={one}")
        assert [each["text"] for each in polled["messages"]] == ["two"]
        assert polled["gap"] is None
        reader, greeting = await listen(running, f"/x?since={one}")
        assert greeting == {"at": one}
        events = await running.stream("/x", f"Last-Event-ID: {one}")
        three = (await running.publish("/x", "three"))["id"]
        assert three == one[:-1] + "3"
        assert [await message(reader), await message(reader)] == [(one[:-1] + "2", "two"), (three, "three")]
        assert await events.data(2) == ["two", "three"]


async def test_a_message_without_readers_costs_no_memory(start: Start) -> None:
    async with start() as running:
        for number in range(3):
            await running.publish("/x", str(number))
        assert not running.hub.rooms
        assert running.hub.stored is not None
        polled = await running.poll("/x?last=2")
        assert [each["text"] for each in polled["messages"]] == ["1", "2"]


async def test_a_room_that_nobody_uses_is_unloaded_and_loaded_anew(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stored_rooms, "UNUSED_S", 0.02)
    async with start() as running:
        stored: Any = running.hub.stored
        reader, _ = await listen(running, "/x")
        one = (await running.publish("/x", "one"))["id"]
        assert await message(reader) == (one, "one")
        reader.hang_up()
        await until(lambda: not stored.loaded_rooms)
        assert not running.hub.rooms
        await running.publish("/x", "two")
        reader, greeting = await listen(running, f"/x?since={one}")
        assert greeting == {"at": one}
        assert (await message(reader))[1] == "two"


async def test_history_limits_hold_over_a_restart(start: Start) -> None:
    async with start(history=2) as running:
        first = await running.publish("/x", "0")
        for number in range(1, 4):
            await running.publish("/x", str(number))
    async with start(history=2) as running:
        polled = await running.poll(f"/x?since={first['id']}")
        assert [each["text"] for each in polled["messages"]] == ["2", "3"]
        assert polled["gap"] == {"since": first["id"], "after": first["id"][:-1] + "2"}
    async with start(history=0) as running:
        _, greeting = await listen(running, "/x")
        assert greeting == {"at": first["id"][:-1] + "4"}


async def test_senders_are_left_out_and_the_program_moderates(start: Start) -> None:
    def shout(_: object, data: str | bytes) -> str | None:
        return None if data == "drop" else str(data).upper()

    async with start(exclude_sender=True, on_message=shout) as running:
        one, two = await running.open("/x"), await running.open("/x")
        await one.send(text("drop") + text("a") + text("b"))
        assert [(await two.frame()).payload, (await two.frame()).payload] == [b"A", b"B"]
        await two.send(text("c"))
        assert (await one.frame()).payload == b"C"


async def test_a_program_joins_publishes_and_asks_for_ids(start: Start, nursery: trio.Nursery, tmp_path: Path) -> None:
    async with start() as running:
        one = (await running.publish("/x", "one"))["id"]
    hub = Hub(store=tmp_path / "rooms.db")
    room = hub.room("/x")
    assert room.last_id.endswith("-0")

    async def handler(ws: rawws.WebSocket) -> None:
        async with room.join(ws, since="0-0"):
            await ws.recv()

    served = functools.partial(rawws.serve, handler, 0, host=LOOPBACK, routes={"/room/": hub})
    server = await nursery.start(served)
    assert room.last_id == "0-0"
    given = await trio.to_thread.run_sync(lambda: room.publish("two", wait=True))
    assert given == one[:-1] + "2"
    client = await Client.unconnected().connect(server.port)
    await client.open("/")
    assert [(await client.frame()).payload, (await client.frame()).payload] == [b"one", b"two"]
    room.publish("three")
    assert (await client.frame()).payload == b"three"
    client.hang_up()
    server.stop()
    await until(lambda: hub.stored is None)


async def test_a_hub_is_served_again(nursery: trio.Nursery, tmp_path: Path) -> None:
    hub = Hub(store=tmp_path / "rooms.db")
    for number in range(1, 3):
        server = await nursery.start(functools.partial(rawws.serve, hub, 0, host=LOOPBACK, http=rawws.rooms(hub)))
        given = await trio.to_thread.run_sync(lambda: hub.room("/x").publish("x", wait=True))
        client = await Client.unconnected().connect(server.port)
        answer = json.loads((await client.ask(get("/x?since=0-0"))).body)
        ids = [f"{str(given)[:-1]}{each}" for each in range(1, number + 1)]
        assert [each["id"] for each in answer["messages"]] == ids
        client.hang_up()
        server.stop()
        await until(lambda: hub.stored is None)
    assert not hub.rooms


async def test_two_servers_of_one_hub_share_its_store(nursery: trio.Nursery, tmp_path: Path) -> None:
    hub = Hub(store=tmp_path / "rooms.db")
    one = await nursery.start(functools.partial(rawws.serve, hub, 0, host=LOOPBACK))
    two = await nursery.start(functools.partial(rawws.serve, hub, 0, host=LOOPBACK))
    stored: Any = hub.stored
    one.stop()
    await trio.sleep(0.01)
    assert hub.stored is stored
    two.stop()
    await until(lambda: hub.stored is None)


async def test_an_operator_clears_a_history(start: Start) -> None:
    async with start() as running:
        last = [await running.publish("/x", str(number)) for number in range(3)][-1]["id"]
        state = running.hub.registry.get("/x")
        assert await running.hub.prepare("/x") is None
        assert await running.hub.stored.clear(state) is None
        assert state.clear_history() == 3
    async with start() as running:
        polled = await running.poll("/x?last=9")
        assert polled == {"messages": [], "next": last, "gap": None}


# Losses


async def test_messages_that_are_lost_are_a_gap(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    async with start() as running:
        one = (await running.publish("/x", "1"))["id"]
        for number in range(2, 5):
            await running.publish("/x", str(number))
    read = SqliteEngine.read_last

    def lose(engine: SqliteEngine, path: str, most: int, most_bytes: int) -> Page | None:
        page = read(engine, path, most, most_bytes)
        assert page is not None
        damaged = [each._replace(frames=None) if each.first == 2 else each for each in page.records]
        return page._replace(records=tuple(damaged))

    monkeypatch.setattr(SqliteEngine, "read_last", lose)
    lost = {"since": one, "after": one[:-1] + "2"}
    async with start() as running:
        polled = await running.poll(f"/x?since={one}")
        assert [each["text"] for each in polled["messages"]] == ["3", "4"]
        assert polled["gap"] == lost
        polled = await running.poll("/x?since=0-0")  # what is before the loss is there, too
        assert [each["text"] for each in polled["messages"]] == ["1"]
        assert (polled["next"], polled["gap"]) == (one, None)
        polled = await running.poll("/x?last=9")
        assert [each["text"] for each in polled["messages"]] == ["1"]
        reader, greeting = await listen(running, "/x?since=0-0")
        assert greeting == {"at": "0-0"} or greeting["at"].endswith("-0")
        assert await message(reader) == (one, "1")
        assert json.loads((await reader.frame()).payload) == {"gap": lost}
        assert await message(reader) == (one[:-1] + "3", "3")
        reader, greeting = await listen(running, f"/x?since={one}")
        assert greeting == {"at": lost["after"], "gap": lost}
        assert await message(reader) == (one[:-1] + "3", "3")


async def test_lost_messages_at_the_end_are_a_gap_before_the_next(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with start() as running:
        one = (await running.publish("/x", "1"))["id"]
        two = (await running.publish("/x", "2"))["id"]
    read = SqliteEngine.read_last

    def lose(engine: SqliteEngine, path: str, most: int, most_bytes: int) -> Page | None:
        page = read(engine, path, most, most_bytes)
        assert page is not None
        return page._replace(records=page.records[:1])

    monkeypatch.setattr(SqliteEngine, "read_last", lose)
    async with start() as running:
        polled = await running.poll(f"/x?since={one}")
        assert polled == {"messages": [], "next": two, "gap": {"since": one, "after": two}}
        assert (await running.poll("/x?since=0-0"))["messages"] == [{"id": one, "text": "1"}]
        reader, greeting = await listen(running, f"/x?since={two}")
        assert greeting == {"at": two}
        await running.publish("/x", "3")
        assert await message(reader) == (one[:-1] + "3", "3")


async def test_readers_learn_that_a_room_has_begun_anew(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    commit = SqliteEngine.commit

    def skip(engine: SqliteEngine, entries: Sequence[Entry]) -> list[Outcome]:
        return [each._replace(epoch="other") for each in commit(engine, entries)]

    async with start() as running:
        one = (await running.publish("/x", "1"))["id"]
        reader, _ = await listen(running, "/x")
        monkeypatch.setattr(SqliteEngine, "commit", skip)
        await running.publish("/x", "2")
        gap = json.loads((await reader.frame()).payload)
        assert gap == {"gap": {"since": one, "after": "other-1"}}
        assert await message(reader) == ("other-2", "2")


async def test_a_commit_during_the_load_is_neither_lost_nor_doubled(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = read_history
    begin, go_on = trio.Event(), trio.Event()

    async with start() as running:
        await running.publish("/x", "1")

        def slow(*given: Any) -> Page | None:
            page = read(*given)
            trio.from_thread.run_sync(begin.set)
            trio.from_thread.run(go_on.wait)
            return page

        monkeypatch.setattr(stored_rooms, "read_history", slow)
        polled: list[Any] = []

        async def poll() -> None:
            polled.append(await running.poll("/x?since=0-0"))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(poll)
            await begin.wait()
            await running.publish("/x", "2")
            go_on.set()
        assert [each["text"] for each in polled[0]["messages"]] == ["1", "2"]


@pytest.mark.parametrize("ahead_s", [0.0, 3600.0])
async def test_messages_keep_their_age_even_if_the_clock_was_set_back(ahead_s: float) -> None:
    wall = time.time() + ahead_s
    records = [Record(1, 1, wall - 20, b""), Record(2, 1, wall - 30, b""), Record(3, 1, wall, b"")]
    now = trio.current_time()
    assert [now - at for at in times_of(records)] == pytest.approx([20, 20, 0], abs=1)


# Troubles


@pytest.mark.parametrize(
    ("error", "status", "code", "obstacle"),
    [
        (StoreFull("there is no space"), 507, b"no space left", "nothing can be stored: the disk is full"),
        (StoreError("the disk fails"), 503, b"just now", "nothing can be stored: the disk reports an error"),
        (
            StoreBroken("an fsync has failed"),
            503,
            b"until it is started again",
            "nothing can be stored until the server is started again",
        ),
    ],
)
async def test_troubles_are_told_while_readers_live_on(
    start: Start, monkeypatch: pytest.MonkeyPatch, error: StoreError, status: int, code: bytes, obstacle: str
) -> None:
    monkeypatch.setattr(committer, "FIRST_REST_S", 0.001)
    monkeypatch.setattr(committer, "MAX_REST_S", 0.002)
    commit = SqliteEngine.commit
    async with start() as running:
        reader, _ = await listen(running, "/x")
        await running.publish("/x", "before")
        await message(reader)
        monkeypatch.setattr(SqliteEngine, "commit", broken(error))
        stored: Any = running.hub.stored
        writer = await running.open("/x")
        await writer.send(text("waits"))
        await until(lambda: stored.trouble)
        await writer.send(text("is held"))
        post = b"POST /x HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\nhi"
        refused = await running.ask(post)
        assert (refused.status, code in refused.body, "retry-after" in refused.headers) == (status, True, True)
        assert running.hub.obstacle == obstacle
        assert [each["text"] for each in (await running.poll("/x?last=1"))["messages"]] == ["before"]
        if isinstance(error, StoreBroken):
            with pytest.raises(PublishError, match="nothing is published, since nothing can be stored: an fsync"):
                running.hub.room("/x").publish("x")
            return
        monkeypatch.setattr(SqliteEngine, "commit", commit)
        assert [(await message(reader))[1], (await message(reader))[1]] == ["waits", "is held"]
        assert running.hub.obstacle == ""


async def test_a_post_that_is_not_stored_in_time_is_withdrawn(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    from rawws.server import room_posts

    monkeypatch.setattr(room_posts, "HELD_S", 0.05)
    monkeypatch.setattr(committer, "FIRST_REST_S", 0.5)
    async with start() as running:
        monkeypatch.setattr(SqliteEngine, "commit", broken(StoreFull("there is no space")))
        post = b"POST /x HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\nhi"
        assert (await running.ask(post)).status == 507
        assert running.hub.stored is not None
        assert running.hub.stored.waiting == 0


async def test_a_room_that_cannot_be_read_is_refused(
    start: Start, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object) -> Page | None:
        raise StoreError("the disk fails")

    async with start() as running:
        await running.publish("/x", "1")
        monkeypatch.setattr(SqliteEngine, "read_last", fail)
        answer = await running.ask(get("/x?since=0-0"))
        assert answer.status == 503
        assert "room /x can't be read from the store: the disk fails" in caplog.text
        monkeypatch.undo()
        assert (await running.poll("/x?since=0-0"))["messages"]


async def test_messages_that_cannot_be_stored_at_the_end_are_told_with_their_number(
    start: Start, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from rawws.store import opening

    monkeypatch.setattr(opening, "FLUSH_S", 0.05)
    async with start() as running:
        monkeypatch.setattr(SqliteEngine, "commit", broken(StoreFull("there is no space")))
        room = running.hub.room("/x")
        room.publish("lost")
    with pytest.raises(PublishError, match="it is closed"):
        room.publish("too late")
    assert "accepted messages that are lost, since they can't be stored: 1" in caplog.text


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"store": ""}, "store can't be ''; it is the path of a file"),
        ({"store": 5}, "store can't be 5; it is the path of a file"),
        ({"store": "x", "mode": "echo"}, "a store is for the messages of rooms"),
        ({"store": "x", "store_sync": "often"}, "there is no store_sync 'often'; give one of 'always', "),
        ({"store": "x", "store_interval_s": -1}, "store_interval_s can't be -1"),
    ],
)
async def test_a_value_that_cannot_be_a_store_is_refused(settings: dict[str, Any], why: str) -> None:
    with pytest.raises(UsageError, match=why):
        Hub(**settings)


async def test_nothing_is_published_before_the_store_is_open(nursery: trio.Nursery, tmp_path: Path) -> None:
    hub = Hub(store=tmp_path / "rooms.db")
    room = hub.room("/x")
    with pytest.raises(NotServing, match="the store of this hub isn't open; rawws"):
        room.publish("too early")
    closed = ClosedStore()
    with pytest.raises(NotServing):
        closed.publish(Outgoing("/x", Opcode.TEXT, b"", History()))
    with pytest.raises(NotServing):
        closed.follow(state_of(room))
    assert await closed.prepare(state_of(room)) is await closed.clear(state_of(room)) is AWAY
    assert not closed.withdraw(Outgoing("/x", Opcode.TEXT, b"", History()))
    await closed.ready()
    await closed.flush()
    closed.tell("", {})
    assert await closed.ask("", {}, 0.0) == Gathered()
    server = await nursery.start(functools.partial(rawws.serve, hub, 0, host=LOOPBACK))
    room.publish("in time")
    server.stop()


async def test_a_history_is_kept_by_default() -> None:
    assert Hub(store="x").settings.history == History(1000)
    assert Hub(store="x", history=5).settings.history == History(5)
    assert Hub().settings.history == History(0)


class _Gate:
    """Holds the reads of a room back, in their threads, and notes these."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.threads: list[int] = []
        self._open = threading.Event()
        monkeypatch.setattr(SqliteEngine, "read_last", lambda *arguments: self.read_last(*arguments))
        self._read_last = _READ_LAST

    def read_last(self, *arguments: Any) -> Page | None:
        self.threads.append(threading.get_ident())
        self._open.wait()
        return self._read_last(*arguments)

    def open(self) -> None:
        self._open.set()


_READ_LAST = SqliteEngine.read_last


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Iterator[_Gate]:
    made = _Gate(monkeypatch)
    yield made
    made.open()


@asynccontextmanager
async def serving(
    nursery: trio.Nursery, handler: Callable[[rawws.WebSocket], Awaitable[None]]
) -> AsyncIterator[Callable[[], Awaitable[Client]]]:
    """Serve a handler, and yield what connects a client to it."""
    server = await nursery.start(functools.partial(rawws.serve, handler, 0, host=LOOPBACK))
    clients: list[Client] = []

    async def connect() -> Client:
        client = await Client.unconnected().connect(server.port)
        clients.append(client)
        await client.open("/")
        return client

    yield connect
    for client in clients:
        client.hang_up()
    server.stop()


async def test_a_program_joins_a_room_that_is_read_beside_the_loop(
    start: Start, nursery: trio.Nursery, gate: _Gate
) -> None:
    async with start() as running:
        await running.publish("/x", "before")
        hub, joined, left = running.hub, trio.Event(), trio.Event()

        async def handler(ws: rawws.WebSocket) -> None:
            since = str(await ws.recv()).split()
            room = hub.room("/x")
            with room.join(ws, last=int(since[0])):
                joined.set()
                if since[1:]:
                    return
                await ws.recv()
            left.set()

        async with serving(nursery, handler) as connect:
            all_of_it, none, gone, ended = [await connect() for _ in range(4)]
            for client, wish in ((all_of_it, "9"), (none, "0"), (gone, "9 and leaves")):
                joined = trio.Event()
                await client.send(text(wish))
                await joined.wait()
            joined = trio.Event()
            await ended.send(text("9"))
            await joined.wait()
            ended.hang_up()
            assert (await gone.frame()).payload[:2] == (1000).to_bytes(2, "big")
            assert len(hub.room("/x")) == 0
            await running.publish("/x", "meanwhile")  # the loop goes on
            gate.open()
            assert [(await all_of_it.frame()).payload for _ in range(2)] == [b"before", b"meanwhile"]
            assert (await none.frame()).payload == b"meanwhile"
            assert threading.get_ident() not in gate.threads
            await until(lambda: len(hub.room("/x")) == 2)
            await all_of_it.send(text("leave"))
            await left.wait()
            await until(lambda: len(hub.room("/x")) == 1)


async def test_a_room_that_can_not_be_read_has_members_all_the_same(
    start: Start, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> Page | None:
        raise StoreError("the disk fails")

    async with start() as running:
        await running.publish("/x", "before")
        monkeypatch.setattr(SqliteEngine, "read_last", fail)

        async def handler(ws: rawws.WebSocket) -> None:
            async with running.hub.room("/x").join(ws, last=9):
                await ws.recv()

        async with serving(nursery, handler) as connect:
            client = await connect()
            await until(lambda: len(running.hub.room("/x")) == 1)
            await running.publish("/x", "after")
            assert (await client.frame()).payload == b"after"


async def test_a_client_that_takes_long_to_join_waits_for_the_disk_and_the_loop_does_not(
    start: Start, monkeypatch: pytest.MonkeyPatch, gate: _Gate
) -> None:
    from rawws.hub import hub

    async def prepare(*_: object) -> None:
        """Return as for a room that was loaded, and unloaded meanwhile."""

    monkeypatch.setattr(hub.Hub, "prepare", prepare)
    async with start() as running:
        one = (await running.publish("/x", "one"))["id"]
        reader, gone = [await running.open("/x?since=0-0", IDS) for _ in range(2)]
        await reader.send(text("two"))
        gone.hang_up()
        await running.publish("/y", "the loop goes on")
        await until(lambda: gate.threads)
        gate.open()
        assert json.loads((await reader.frame()).payload) == {"at": f"{one[:-1]}0"}
        assert [await message(reader) for _ in range(2)] == [(one, "one"), (f"{one[:-1]}2", "two")]
        assert threading.get_ident() not in gate.threads
        await until(lambda: len(running.hub.room("/x")) == 1)
