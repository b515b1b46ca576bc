"""Rooms that several nodes share, with a real Redis between them, which fails in many ways."""

from __future__ import annotations

import json
import math
import random
import socket
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing
from trio.testing import wait_all_tasks_blocked

import rawws
from rawws.backplane import connector, publisher, reader
from rawws.backplane.connector import Connector
from rawws.backplane.redis_streams import RedisStatistics, RedisStreams
from rawws.backplane.troubles import Trouble
from rawws.broadcast.idempotency import IdempotencyKey
from rawws.broadcast.log import History
from rawws.broadcast.message_ids import Ids
from rawws.broadcast.node_answers import NodeName
from rawws.broadcast.outbox import Outgoing
from rawws.broadcast.stream_entries import StreamMessage, read_entry
from rawws.errors import UsageError
from rawws.hub.room import state_of
from rawws.hub.shards import Shards
from rawws.limits import MIB
from rawws.relay.loop import current_loop
from rawws.relay.room_base import RoomBase
from rawws.relay.room_state import RoomState
from rawws.wire.frames import Opcode
from tests.backplane.ids import IDS, next_with_id, open_with_ids
from tests.redis_server import Network, RedisServer, network, outages, redis_server
from tests.room_serving import Rooms, post, rooms
from tests.serving.client import Client
from tests.serving.machine import LOOPBACK, PATIENCE_S
from tests.serving.programs import StartProgram
from tests.serving.wire import Seen, binary, close, get, seen_text, text, upgrade

AT_ONCE = ("--repl-diskless-sync-delay", "0")  # or else a replica waits 5 s for others
DURABLE = ("--appendonly", "yes", "--appendfsync", "always")


@pytest.fixture
async def redis(bounded: None, tmp_path: Path) -> AsyncIterator[RedisServer]:  # noqa: ARG001
    async with redis_server(tmp_path) as server:
        yield server


@pytest.fixture
def prompt(monkeypatch: pytest.MonkeyPatch) -> None:
    """Set short pauses before Redis is tried again."""
    monkeypatch.setattr(connector, "MAX_REST_S", 0.1)
    monkeypatch.setattr(reader, "BLOCK_S", 0.2)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch, prompt: None) -> None:  # noqa: ARG001
    """Set short timeouts, too, for a Redis that doesn't answer."""
    for module in (connector, publisher, reader):
        monkeypatch.setattr(module, "TIMEOUT_S", 0.4)
    monkeypatch.setattr("rawws.backplane.redis_streams.START_S", 1.0)


async def _all_is_published(node: Rooms) -> None:
    assert node.hub.backplane is not None
    await node.hub.backplane.flush()


def statistics(node: Rooms) -> RedisStatistics:
    """Return the counts of a node that has one Redis."""
    assert node.hub.backplane is not None
    streams = node.hub.backplane.of("/")
    assert isinstance(streams, RedisStreams)
    return streams.statistics()


async def numbers_up_to(client: Client, last: int) -> list[int]:
    """Return the received numbers up to a given one."""
    got: list[int] = []
    while not got or got[-1] != last:
        got.append(int((await client.frame()).payload))
    return got


# One room on several nodes


async def test_a_lagging_node_catches_up_for_a_client_that_has_seen_more_elsewhere(
    nursery: trio.Nursery, redis: RedisServer
) -> None:
    async with (
        network(redis.port) as between,
        rooms(nursery, backplane=redis.url, history=10) as quick,
        rooms(nursery, backplane=between.url, history=10) as slow,
    ):
        await slow.open("/room/x")
        let_go = between.hold(to_server=False)
        published = [await quick.publish("/room/x", str(number)) for number in range(3)]
        between.cut()
        between.heal()
        again = await slow.open(f"/room/x?since={published[1]['id']}", IDS)
        assert json.loads((await again.frame()).payload) == {"at": published[1]["id"]}
        assert await next_with_id(again) == (published[2]["id"], b"2")
        let_go()


async def test_any_program_with_a_redis_client_takes_part(nursery: trio.Nursery, redis: RedisServer) -> None:
    async with rooms(nursery, backplane=redis.url) as node:
        client = await node.open("/room/x")
        for fields in (
            ("data", "hello"),
            ("data", b"\xff\x00"),
            ("data", "bytes", "op", "b"),
            ("data", b"no text \xff", "op", "t"),
            ("something", "else"),
        ):
            await redis.ask("XADD", "rawws:/room/x", "*", *fields)
        assert await client.frames(5) == [
            seen_text("hello"),
            Seen(Opcode.BINARY, b"\xff\x00"),
            Seen(Opcode.BINARY, b"bytes"),
            Seen(Opcode.BINARY, b"no text \xff"),
            seen_text(""),
        ]
        await client.send(binary(b"\x00"))
        await client.frame()
        assert await redis.ask("XLEN", "rawws:/room/x") == 6
        assert 0 < await redis.ask("TTL", "rawws:/room/x") <= 3600


async def test_a_post_is_published_once_whichever_node_gets_it(nursery: trio.Nursery, redis: RedisServer) -> None:
    async with rooms(nursery, backplane=redis.url) as a, rooms(nursery, backplane=redis.url) as b:
        reader = await a.open("/room/x")
        first = await a.publish("/room/x", "paid", "Idempotency-Key: k1")
        again = await b.publish("/room/x", "paid", "Idempotency-Key: k1")
        assert (again["id"], await redis.ask("XLEN", "rawws:/room/x")) == (first["id"], 1)
        refused = await b.ask(post("/room/x", b"other", "Idempotency-Key: k1"))
        assert refused.status == 422
        elsewhere = await b.publish("/room/y", "paid", "Idempotency-Key: k1")
        assert elsewhere["id"] != first["id"]
        assert await reader.frame() == seen_text("paid")


async def test_a_key_belongs_to_its_user_at_every_node(nursery: trio.Nursery, redis: RedisServer) -> None:
    def authenticate(request: rawws.Request) -> rawws.User | None:
        name = request.headers.get("Cookie")
        return None if name is None else rawws.User(name, read=["*"], write=["*"])

    start = partial(rooms, nursery, backplane=redis.url, authenticate=authenticate)
    async with start() as a, start() as b:
        reader = await a.open("/room/x")
        ids = {}
        for cookie in ([], ["Cookie: alice"], ["Cookie: bob"]):
            first, again = [await node.publish("/room/x", "paid", "Idempotency-Key: k1", *cookie) for node in (a, b)]
            assert first["id"] == again["id"]
            ids[first["id"]] = await reader.frame()
        assert len(ids) == 3
        listed = await redis.ask("EVAL", "return table.concat(redis.call('KEYS', 'rawws:once:*'), '|')", "0")
        named = sorted(listed.split("|"), key=len)
        assert [len(key.partition("/room/x k1")[0]) for key in named] == [11, 43, 43]
        assert not any("alice" in key for key in named)


async def test_a_room_is_followed_while_it_has_peers(
    nursery: trio.Nursery, redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rawws.backplane.redis_streams.UNUSED_S", 0.05)
    monkeypatch.setattr(reader, "BLOCK_S", 0.05)
    monkeypatch.setattr(reader, "ROOMS_PER_READER", 10)
    async with rooms(nursery, backplane=redis.url, history=5) as node:
        clients = [await node.open(f"/room/{number}") for number in range(25)]
        for number, client in enumerate(clients):
            await node.publish(f"/room/{number}", str(number))
            assert await client.frame() == seen_text(str(number))
            client.reset()
        while node.hub.rooms or statistics(node).followed_rooms or statistics(node).readers > 1:
            await trio.sleep(0.02)
        while await _clients_of(redis) > 8:  # two of the publisher, two of a reader, three for commands, and this one
            await trio.sleep(0.02)
        again = await node.open("/room/7?last=1")
        assert await again.frame() == seen_text("7"), "its messages are still in Redis"


async def _clients_of(redis: RedisServer) -> int:
    info = await redis.ask("INFO", "clients")
    return int(info.partition("connected_clients:")[2].split()[0])


async def test_each_reader_follows_more_rooms_beyond_the_maximum_of_readers(
    nursery: trio.Nursery, redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rawws.backplane.redis_streams.MOST_READERS", 2)
    monkeypatch.setattr(reader, "ROOMS_PER_READER", 1)
    async with rooms(nursery, backplane=redis.url) as node:
        clients = [await node.open(f"/room/{number}") for number in range(7)]
        assert statistics(node) == RedisStatistics(followed_rooms=7, readers=2, waiting=0)
        for number, client in enumerate(clients):
            await node.publish(f"/room/{number}", str(number))
            assert await client.frame() == seen_text(str(number))


async def test_ids_of_the_future_cause_no_reads_of_the_stream(nursery: trio.Nursery, redis: RedisServer) -> None:
    for _ in range(3):
        await redis.ask("XADD", "rawws:/room/x", "*", "data", bytes(MIB))
    async with rooms(nursery, backplane=redis.url, history=10, history_bytes=10) as node:
        await node.open("/room/x")
        before = await _sent_by(redis)
        async with trio.open_nursery() as asking:
            for _ in range(20):
                asking.start_soon(node.poll, "/room/x?since=9999999999999-0")
        await node.poll("/room/x?since=9999999999999-0")
        assert await _sent_by(redis) - before < 20_000


@pytest.mark.usefixtures("impatient")
async def test_a_full_redis_can_still_be_read(nursery: trio.Nursery, redis: RedisServer) -> None:
    async with rooms(nursery, backplane=redis.url, history=10) as node:
        here = await node.open("/here")
        await node.publish("/room/x", "kept")
        await redis.ask("CONFIG", "SET", "maxmemory", "1")
        assert (await node.poll("/room/x?last=1"))["messages"][0]["text"] == "kept"
        assert (await node.poll("/room/new?last=1"))["messages"] == []
        await here.send(text("waits"))
        while not ((backplane := node.hub.backplane) and backplane.is_away):
            await trio.sleep(0.01)
        assert (await node.poll("/room/other?last=1"))["messages"] == []
        await redis.ask("CONFIG", "SET", "maxmemory", "0")
        assert await here.frame() == seen_text("waits")


async def test_an_error_of_the_work_itself_is_logged_once_and_is_no_outage(
    redis: RedisServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(connector, "FIRST_REST_S", 0.01)
    monkeypatch.setattr(connector, "MAX_REST_S", 0.01)
    times = 0
    away: list[Trouble] = []

    async def fail(_: object) -> None:
        nonlocal times
        times += 1
        if times == 3:
            scope.cancel()
        raise AssertionError("this was never to be")

    with trio.move_on_after(10) as scope:
        await Connector(redis.url).run_with_reconnect(fail, on_away=away.append)
    assert (times, away) == (3, []), "Redis has nothing to do with it"
    logged = [record for record in caplog.records if record.name == "rawws.server"]
    assert [(record.levelname, bool(record.exc_info)) for record in logged] == [("ERROR", True)]
    assert "this was never to be" in caplog.text


async def test_rooms_with_long_names_have_their_own_readers(nursery: trio.Nursery, redis: RedisServer) -> None:
    async with rooms(nursery, backplane=redis.url) as node:
        for number in range(6):
            await node.open(f"/{number}" + 6000 * "x")
        assert statistics(node) == RedisStatistics(followed_rooms=6, readers=2, waiting=0)


@pytest.mark.usefixtures("impatient")
async def test_unused_rooms_are_forgotten_while_redis_is_away(
    nursery: trio.Nursery, redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rawws.backplane.redis_streams.UNUSED_S", 0.05)
    for limit in ("START_S", "OPEN_TIMEOUT_S"):
        monkeypatch.setattr(f"rawws.backplane.redis_streams.{limit}", 0.05)
    monkeypatch.setattr(reader, "ROOMS_PER_READER", 1)
    redis.kill()
    async with rooms(nursery, backplane=redis.url) as node:
        answers: list[int] = []

        async def ask(number: int) -> None:
            answers.append((await node.ask(upgrade(f"/room/{number}"))).status)

        async with trio.open_nursery() as asking:
            for number in range(5):
                asking.start_soon(ask, number)
            with trio.fail_after(PATIENCE_S):
                while not statistics(node).followed_rooms:
                    await trio.sleep(0)  # each time that any task has run: a busy machine may forget them soon
        assert answers == [503] * 5
        with trio.fail_after(PATIENCE_S):
            while statistics(node).followed_rooms:
                await trio.sleep(0.02)
        assert statistics(node) == RedisStatistics(followed_rooms=0, readers=1, waiting=0)


@pytest.mark.usefixtures("impatient")
async def test_a_publisher_does_not_wait_for_ever_when_its_room_is_forgotten(
    nursery: trio.Nursery, redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rawws.backplane.redis_streams.UNUSED_S", 0.05)
    monkeypatch.setattr(publisher, "MAX_WAITING_BYTES", 100)
    async with network(redis.port) as between, rooms(nursery, backplane=between.url) as node:
        client = await node.open("/room/x")
        room = node.hub.room("/room/x")
        between.cut()
        room.publish(bytes(100))
        assert room.is_held
        async with trio.open_nursery() as waiting:
            waiting.start_soon(room.ready)
            client.reset()
            while statistics(node).followed_rooms:
                await trio.sleep(0.02)
            between.heal()


async def test_a_room_whose_key_is_no_stream_is_502_and_others_go_on(
    nursery: trio.Nursery, redis: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    await redis.ask("SET", "rawws:/room/x", "a string")
    async with rooms(nursery, backplane=redis.url) as node:
        other = await node.open("/room/y")
        answer = await node.ask(post("/room/x", b"lost"))
        assert answer.status == 502
        assert "a message for room /room/x can't be published, and is dropped: WRONGTYPE" in caplog.text
        await node.publish("/room/y", "goes on")
        assert await other.frame() == seen_text("goes on")
        refused = await node.ask(upgrade("/room/x"))
        assert refused.status == 502
        await node.publish("/room/y", "and on")
        assert await other.frame() == seen_text("and on")


@pytest.mark.usefixtures("impatient")
async def test_a_faulty_message_does_not_fail_the_rest_of_its_batch(nursery: trio.Nursery, redis: RedisServer) -> None:
    await redis.ask("RPUSH", "rawws:once:/room/x list", "no answer")
    await redis.ask("SET", "rawws:once:/room/x text", "no answer")
    await redis.ask("SET", "rawws:once:/room/x error", "-OOM as if Redis had no memory left")
    async with network(redis.port) as between, rooms(nursery, backplane=between.url) as node:
        client = await node.open("/room/x")
        shared = state_of(node.hub.room("/room/x")).shared
        assert shared is not None
        between.cut()
        sent = [
            Outgoing(
                "/room/x",
                Opcode.TEXT,
                payload,
                History(),
                once=None if once is None else IdempotencyKey(once),
                digest="digest",
            )
            for payload, once in [
                (b"1", None),
                (b"2", "list"),
                (b"3", None),
                (b"4", "text"),
                (b"5", "error"),
                (b"6", "fine"),
            ]
        ]
        for message in sent:
            shared.publish(message)
        between.heal()
        assert [(await client.frame()).payload for _ in range(3)] == [b"1", b"3", b"6"]
        await shared.flush()
        assert [bool(message.problem) for message in sent] == [False, True, False, True, True, False]
        await shared.flush()
        assert await redis.ask("XLEN", "rawws:/room/x") == 3


async def test_a_stream_keeps_the_history_of_its_own_room(
    nursery: trio.Nursery, redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rawws.broadcast.stream_entries.LEAST_ENTRIES", 1000)

    def settings(path: str) -> rawws.RoomSettings | None:
        return rawws.RoomSettings(History(2000, MIB, 86_400)) if path == "/long" else None

    async with rooms(nursery, backplane=redis.url, settings=settings) as node:
        for path in ("/short", "/long"):
            client = await node.open(path)
            for _ in range(3):
                node.hub.room(path).publish_many(["x"] * 500)
                await client.frames(500)
            await node.publish(path, "and one by POST")
        assert 1000 <= await redis.ask("XLEN", "rawws:/short") < 1200
        assert await redis.ask("XLEN", "rawws:/long") == 1501
        assert await redis.ask("TTL", "rawws:/short") <= 3600 < await redis.ask("TTL", "rawws:/long")


@pytest.mark.usefixtures("bounded")
async def test_a_client_whose_authentication_takes_long_misses_no_message(
    nursery: trio.Nursery, redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rawws.backplane.redis_streams.UNUSED_S", 0.1)
    is_known = trio.Event()

    async def authenticate(_: rawws.Request) -> None:
        await is_known.wait()

    await redis.ask("XADD", "rawws:/room/x", "*", "data", "0")
    async with rooms(nursery, backplane=redis.url, history=10, authenticate=authenticate) as node:
        client = await node.connect()
        await client.send(upgrade("/room/x?last=1"))
        await trio.sleep(0.3)  # longer than a room is kept ready
        is_known.set()
        assert (await client.answer()).status == 101
        assert await client.frame() == seen_text("0")


@pytest.mark.usefixtures("impatient", "bounded")
async def test_a_stream_that_is_full_of_ids_can_be_read_until_it_begins_anew(
    nursery: trio.Nursery, redis: RedisServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    most = 2**64 - 1
    async with rooms(nursery, backplane=redis.url, history=10) as node:
        (full, _), other = await open_with_ids(node, "/full"), await node.open("/other")
        await redis.ask("XADD", "rawws:/full", f"{most}-{most}", "data", "the last")
        assert await next_with_id(full) == (f"{most}-{most}", b"the last")
        monkeypatch.setattr(reader, "RECHECK_S", 0.01)
        await redis.ask("CLIENT", "KILL", "TYPE", "normal")
        while node.hub.backplane is None or not node.hub.backplane.is_away:
            await trio.sleep(0.01)
        while node.hub.backplane.is_away:
            await trio.sleep(0.01)
        assert (await node.ask(post("/full", b"one too many"))).status == 502
        assert (await node.poll("/full?last=1"))["messages"][0]["text"] == "the last"
        await node.publish("/other", "goes on")
        assert await other.frame() == seen_text("goes on")
        await redis.ask("DEL", "rawws:/full")
        given = (await node.publish("/full", "anew"))["id"]
        assert json.loads((await full.frame()).payload) == {"gap": {"since": f"{most}-{most}", "after": "0-0"}}
        assert await next_with_id(full) == (given, b"anew")
    assert "can't be read" not in caplog.text


# A stream that is replaced by another one

HOUR_MS = 3_600_000


@pytest.fixture
def watchful(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have each stream checked many times a second."""
    monkeypatch.setattr("rawws.backplane.redis_streams.LOOK_EVERY_S", 0.02)
    monkeypatch.setattr(reader, "RECHECK_S", 0.02)
    monkeypatch.setattr(reader, "BLOCK_S", 0.02)


@pytest.fixture
def unwatchful(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have no stream checked at intervals."""
    monkeypatch.setattr("rawws.backplane.redis_streams.LOOK_EVERY_S", 0.02)
    monkeypatch.setattr(reader, "RECHECK_S", math.inf)


async def _now_ms(redis: RedisServer) -> int:
    return int(float((await redis.ask("INFO", "server")).partition("server_time_usec:")[2].split()[0]) / 1000)


async def _gap_then(client: Client, since: str, messages: list[tuple[str, str]]) -> None:
    """Check that a reader with ids gets one gap, and then these messages."""
    notice = json.loads((await client.frame()).payload)
    assert notice == {"gap": {"since": since, "after": "0-0"}}
    assert [await next_with_id(client) for _ in messages] == [(each, text.encode()) for each, text in messages]


@pytest.mark.parametrize("noticed_by", ["its publisher", "a node that only reads", "a node without a publisher"])
async def test_a_stream_that_begins_anew_with_lower_ids(
    nursery: trio.Nursery,
    redis: RedisServer,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    noticed_by: str,
) -> None:
    monkeypatch.setattr(reader, "RECHECK_S", math.inf if noticed_by == "its publisher" else 0.05)
    monkeypatch.setattr(reader, "BLOCK_S", 0.05)
    monkeypatch.setattr("rawws.backplane.redis_streams.LOOK_EVERY_S", 0.05)
    ahead = f"{await _now_ms(redis) + HOUR_MS}-0"
    async with rooms(nursery, backplane=redis.url, history=50) as node, rooms(nursery, backplane=redis.url) as other:
        plain, (named, _) = await node.open("/room/x"), await open_with_ids(node, "/room/x")
        events = await node.stream("/room/x")
        resumed = await rawws.connect(f"ws://{LOOPBACK}:{node.server.port}/room/x", resume=True).open()
        await redis.ask("XADD", "rawws:/room/x", ahead, "data", "before")
        assert await next_with_id(named) == (ahead, b"before")
        assert (await plain.frame(), await events.data(1), await resumed.recv()) == (
            seen_text("before"),
            ["before"],
            "before",
        )
        polled: list[Any] = []

        async def poll() -> None:
            polled.append(await node.poll(f"/room/x?since={ahead}&wait=20"))

        async with trio.open_nursery() as polling:
            polling.start_soon(poll)
            await wait_all_tasks_blocked()
            await redis.ask("DEL", "rawws:/room/x")
            texts = ["one", "two", "three"]
            if noticed_by == "a node without a publisher":
                given = [(await redis.ask("XADD", "rawws:/room/x", "*", "data", each)).strip() for each in texts]
            else:
                publisher_ = node if noticed_by == "its publisher" else other
                given = [(await publisher_.publish("/room/x", each))["id"] for each in texts]
            await _gap_then(named, ahead, list(zip(given, texts, strict=True)))
            assert await plain.frames(3) == [seen_text(each) for each in texts]
            gap, *streamed = await events.events(4)
            assert (gap.kind, json.loads(gap.data)["since"]) == ("gap", ahead)
            assert [(event.last_id, event.data) for event in streamed] == list(zip(given, texts, strict=True))
            assert [await resumed.recv() for _ in texts] == texts
            assert (resumed.gap, resumed.last_id) == (rawws.Gap(ahead, "0-0"), given[-1])
        assert (polled[0]["gap"]["since"], polled[0]["next"]) == (ahead, given[len(polled[0]["messages"]) - 1])
        assert caplog.text.count("may have been missed") == 1
        await resumed.aclose()
        async with rooms(nursery, backplane=redis.url, history=50) as late:
            for each in (node, late):  # readers, answers to POSTs, and resumed readers agree
                for place in range(3):
                    found = await each.poll(f"/room/x?since={given[place]}")
                    assert [message["id"] for message in found["messages"]] == given[place + 1 :]
                    assert (found["gap"], found["next"]) == (None, given[-1])
                found = await each.poll("/room/x?since=0-0")
                assert ([message["id"] for message in found["messages"]], found["gap"]) == (given, None)
            found = await node.poll(f"/room/x?since={ahead}")
            assert ([message["id"] for message in found["messages"]], found["gap"]["since"]) == (given, ahead)
            assert (await late.poll(f"/room/x?since={ahead}"))["gap"]["since"] == ahead
            again = await late.stream("/room/x", f"Last-Event-ID: {given[0]}")
            assert await again.data(2) == texts[1:]
            again = await node.stream("/room/x", f"Last-Event-ID: {ahead}")
            assert [event.data for event in (await again.events(4))[1:]] == texts
            async with rawws.connect(f"ws://{LOOPBACK}:{late.server.port}/room/x", resume=given[1]) as ws:
                assert (await ws.recv(), ws.gap) == ("three", None)


@pytest.mark.usefixtures("impatient", "bounded")
async def test_readers_get_a_gap_when_redis_returns_without_its_data_and_with_a_slow_clock(
    nursery: trio.Nursery, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with redis_server(tmp_path) as server, rooms(nursery, backplane=server.url, history=50) as node:
        named, _ = await open_with_ids(node, "/room/x")
        ahead = f"{await _now_ms(server) + HOUR_MS}-0"  # the clock will lag by as much
        await server.ask("XADD", "rawws:/room/x", ahead, "data", "before")
        first = await node.publish("/room/x", "the first with a key", "Idempotency-Key: k")
        assert [(await next_with_id(named))[0] for _ in range(2)] == [ahead, first["id"]]
        assert first["id"] > ahead
        server.kill()
        await server.start()
        while node.hub.backplane is None or node.hub.backplane.is_away:
            await trio.sleep(0.01)
        texts = ["one", "two", "three"]
        given = [(await node.publish("/room/x", each))["id"] for each in texts]
        await _gap_then(named, first["id"], list(zip(given, texts, strict=True)))
        assert len(set(given)) == 3
        assert caplog.text.count("may have been missed") == 1
        for since in (ahead, first["id"]):
            found = await node.poll(f"/room/x?since={since}")
            assert ([message["id"] for message in found["messages"]], found["gap"]["since"]) == (given, since)
        found = await node.poll(f"/room/x?since={given[0]}")
        assert ([message["id"] for message in found["messages"]], found["gap"]) == (given[1:], None)
        again = await node.publish("/room/x", "the first with a key", "Idempotency-Key: k")
        assert await next_with_id(named) == (again["id"], b"the first with a key"), "Redis has lost it, and its key"
        assert (await node.publish("/room/x", "the first with a key", "Idempotency-Key: k"))["id"] == again["id"]


@pytest.mark.usefixtures("unwatchful")
async def test_a_repeated_post_gets_the_id_of_the_first_and_that_id_gets_a_gap(
    nursery: trio.Nursery, redis: RedisServer
) -> None:
    async with rooms(nursery, backplane=redis.url, history=50) as node:
        named, _ = await open_with_ids(node, "/room/x")
        await redis.ask("XADD", "rawws:/room/x", f"{await _now_ms(redis) + HOUR_MS}-0", "data", "ahead")
        first = await node.publish("/room/x", "paid", "Idempotency-Key: k")
        for _ in range(2):
            await next_with_id(named)
        await redis.ask("DEL", "rawws:/room/x")
        again = await node.publish("/room/x", "paid", "Idempotency-Key: k")
        assert again["id"] == first["id"]
        new = await node.publish("/room/x", "new")
        await _gap_then(named, first["id"], [(new["id"], "new")])
        assert (await node.poll(f"/room/x?since={again['id']}"))["gap"]["since"] == first["id"]


@pytest.mark.usefixtures("watchful")
async def test_an_id_of_the_old_stream_gets_a_gap_after_the_new_stream_has_passed_it(
    nursery: trio.Nursery, redis: RedisServer
) -> None:
    now_ms = await _now_ms(redis)
    old = [f"{now_ms + after_ms}-0" for after_ms in (-1000, -500, 0)]
    new = [f"{now_ms + after_ms}-0" for after_ms in (-800, -400, 500)]
    async with rooms(nursery, backplane=redis.url, history=50) as node:
        named, _ = await open_with_ids(node, "/room/x")
        for each in old:
            await redis.ask("XADD", "rawws:/room/x", each, "data", "old")
            await named.frame()
        await redis.ask("DEL", "rawws:/room/x")
        assert "gap" in json.loads((await named.frame()).payload)
        for each in new:
            await redis.ask("XADD", "rawws:/room/x", each, "data", "new")
            assert await next_with_id(named) == (each, b"new")
        async with rooms(nursery, backplane=redis.url, history=50) as late:
            for at in (node, late):
                for since in old:
                    found = await at.poll(f"/room/x?since={since}")
                    assert found["gap"]["since"] == since
                    assert found["messages"][-1]["id"] == new[-1]
            found = await node.poll(f"/room/x?since={old[1]}")
            assert [message["id"] for message in found["messages"]] == new, "which it has seen nothing of"


@pytest.mark.parametrize(
    ("commands", "has_gap", "is_lower"),
    [
        ([("DEL", "rawws:/room/x")], True, False),
        ([("FLUSHALL",)], True, False),
        ([("PEXPIRE", "rawws:/room/x", "0")], True, False),
        ([("RENAME", "rawws:/room/x", "elsewhere")], True, False),
        ([("RENAME", "rawws:/room/x", "elsewhere"), (), ("RENAME", "elsewhere", "rawws:/room/x")], True, False),
        ([("RENAME", "other", "rawws:/room/x")], True, True),
        ([("XTRIM", "rawws:/room/x", "MAXLEN", "1")], False, False),
        ([("XTRIM", "rawws:/room/x", "MAXLEN", "0")], False, False),
        ([("XDEL", "rawws:/room/x", "NOW-2")], False, False),
        ([("XDEL", "rawws:/room/x", "NOW-2", "NOW-1")], False, False),
        ([("XDEL", "rawws:/room/x", "NOW-1")], False, False),
        ([("SET", "rawws:/room/x", "a string"), (), ("DEL", "rawws:/room/x")], True, False),
        ([("SET", "rawws:/room/x", "a string"), (), ("RENAME", "other", "rawws:/room/x")], True, True),
    ],
    ids=lambda value: " ".join(value[-1])[:40] if isinstance(value, list) else None,
)
@pytest.mark.usefixtures("watchful")
async def test_a_key_that_is_deleted_renamed_trimmed_or_replaced(
    nursery: trio.Nursery,
    redis: RedisServer,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    commands: list[tuple[str, ...]],
    has_gap: bool,
    is_lower: bool,
) -> None:
    monkeypatch.setattr(reader, "PROBLEM_S", 0.05)
    async with rooms(nursery, backplane=redis.url, history=5) as node:
        named, _ = await open_with_ids(node, "/room/x")
        now_ms = await _now_ms(redis)
        for each in (f"{now_ms}-1", f"{now_ms}-2"):
            await redis.ask("XADD", "rawws:/room/x", each, "data", "before")
            assert await next_with_id(named) == (each, b"before")
        await redis.ask("XADD", "other", "0-5", "data", "of the other")
        noticed = len(caplog.records)
        for command in commands:
            if command:
                await redis.ask(*(each.replace("NOW", str(now_ms)) for each in command))
            else:
                while len(caplog.records) == noticed:
                    await trio.sleep(0.005)
        if has_gap:
            assert json.loads((await named.frame()).payload)["gap"]["since"] == f"{now_ms}-2"
        if is_lower:
            assert await next_with_id(named) == ("0-5", b"of the other")
        given = (await node.publish("/room/x", "after"))["id"]
        assert await next_with_id(named) == (given, b"after"), "no message comes twice"
        looked = _looks_of(node)
        while _looks_of(node) == looked:
            await trio.sleep(0.005)
        assert caplog.text.count("may have been missed") == has_gap
        last = (await node.publish("/room/x", "last"))["id"]
        assert await next_with_id(named) == (last, b"last"), "no gap comes twice"


@pytest.mark.usefixtures("unwatchful")
async def test_a_message_right_after_its_stream_has_expired_is_no_gap(
    nursery: trio.Nursery, redis: RedisServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(reader, "BLOCK_S", 0.02)
    async with rooms(nursery, backplane=redis.url, history=5) as node:
        named, _ = await open_with_ids(node, "/room/x")
        for sequence in range(3):
            an_hour_ago = f"{await _now_ms(redis) - HOUR_MS}-{sequence}"
            await redis.ask("XADD", "rawws:/room/x", an_hour_ago, "data", "before")
            assert await next_with_id(named) == (an_hour_ago, b"before")
        await redis.ask("DEL", "rawws:/room/x")  # as Redis itself does at that age
        for text in ("after", "and on"):
            given = (await node.publish("/room/x", text))["id"]
            assert await next_with_id(named) == (given, text.encode())
        monkeypatch.setattr(reader, "RECHECK_S", 0.02)
        for _ in range(2):
            looked = _looks_of(node)
            while _looks_of(node) == looked:
                await trio.sleep(0.005)
        last = (await node.publish("/room/x", "last"))["id"]
        assert await next_with_id(named) == (last, b"last")
    assert "may have been missed" not in caplog.text


@pytest.mark.parametrize("is_renewed", [True, False], ids=["by another age", "by a program that doesn't renew it"])
@pytest.mark.usefixtures("watchful")
async def test_a_stream_that_expires_on_time_is_no_gap(
    nursery: trio.Nursery, redis: RedisServer, caplog: pytest.LogCaptureFixture, is_renewed: bool
) -> None:
    async with rooms(nursery, backplane=redis.url, history=5) as node:
        named, _ = await open_with_ids(node, "/room/x")
        await next_with_id_of(named, node, "before")
        await redis.ask("PEXPIRE", "rawws:/room/x", "400")  # as a node with another --history-age does
        looked = _looks_of(node)
        while _looks_of(node) == looked:
            await trio.sleep(0.005)
        if not is_renewed:
            given = (await redis.ask("XADD", "rawws:/room/x", "*", "data", "of a program")).strip()
            assert await next_with_id(named) == (given, b"of a program")
        while await redis.ask("EXISTS", "rawws:/room/x"):
            await trio.sleep(0.01)
        looked = _looks_of(node)
        while _looks_of(node) == looked:
            await trio.sleep(0.005)
        await next_with_id_of(named, node, "after")
    assert "may have been missed" not in caplog.text


async def next_with_id_of(client: Client, node: Rooms, message: str) -> None:
    """Publish a message, and check that a reader with ids gets it next."""
    given = (await node.publish("/room/x", message))["id"]
    assert await next_with_id(client) == (given, message.encode())


@pytest.mark.usefixtures("unwatchful")
async def test_a_reader_resumes_in_a_new_stream_that_this_node_has_not_seen_yet(
    nursery: trio.Nursery, redis: RedisServer
) -> None:
    async with rooms(nursery, backplane=redis.url, history=5) as node, rooms(nursery, backplane=redis.url) as other:
        await node.open("/room/x")
        now_ms = await _now_ms(redis)
        for sequence in range(3):
            await redis.ask("XADD", "rawws:/room/x", f"{now_ms + HOUR_MS * (-1 + sequence)}-0", "data", "old")
        while len((await node.poll("/room/x?last=5"))["messages"]) < 3:
            await trio.sleep(0.01)
        await redis.ask("DEL", "rawws:/room/x")
        seen, unseen = [(await other.publish("/room/x", each))["id"] for each in ("seen", "unseen")]
        polled = await node.poll(f"/room/x?since={seen}")
        assert ([message["id"] for message in polled["messages"]], polled["gap"]) == ([unseen], None)


def _looks_of(node: Rooms) -> float:
    """Return when the room was last checked."""
    shared = state_of(node.hub.room("/room/x")).shared
    assert isinstance(shared, RedisStreams)
    return shared._followed["/room/x"][0].looked_at


@pytest.mark.usefixtures("watchful")
async def test_streams_are_checked_though_redis_has_forgotten_the_script(
    nursery: trio.Nursery, redis: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    async with rooms(nursery, backplane=redis.url) as node:
        await node.open("/room/x")
        for _ in range(2):
            await redis.ask("SCRIPT", "FLUSH")
            looked = _looks_of(node)
            while _looks_of(node) == looked:
                await trio.sleep(0.005)
    assert outages(caplog) == []


@pytest.mark.usefixtures("impatient", "bounded")
async def test_the_messages_of_an_old_snapshot_are_not_delivered_again(
    nursery: trio.Nursery, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with redis_server(tmp_path) as server, rooms(nursery, backplane=server.url, history=50) as node:
        await server.ask("XADD", "rawws:/room/x", "1-0", "data", "0")
        named, _ = await open_with_ids(node, "/room/x")
        for number in range(2, 20):
            await server.ask("XADD", "rawws:/room/x", f"{number}-0", "data", "x")
            assert await next_with_id(named) == (f"{number}-0", b"x")
            if number == 10:
                await server.ask("SAVE")
        server.kill()
        await server.start()
        assert json.loads((await named.frame()).payload) == {"gap": {"since": "19-0", "after": "10-0"}}
        for each in ("11-0", "30-0"):
            await server.ask("XADD", "rawws:/room/x", each, "data", "new")
            assert await next_with_id(named) == (each, b"new")
        assert (await node.poll("/room/x?since=10-0"))["gap"] is None
        assert (await node.poll("/room/x?since=19-0"))["gap"]["since"] == "19-0"
    assert caplog.text.count("Redis has come back without the newest of them") == 1


# Entries that other programs write


def _odd_entries() -> list[list[str | bytes]]:
    """Return entries that no node would write, some of them random."""
    rng = random.Random(14)
    values: list[str | bytes] = [
        "",
        "x",
        "\u00e9.1.1",
        b"\xff.1.1",
        "n.1.1",
        "n.\u0663.1",
        "n.1." + "9" * 5000,
        b"\x00",
    ]
    values += ["t", "b", b"\xed\xa0\x80", "\u2028\r\n", "[" * 10_000, "n" * 5000 + ".1.2", "-1.-1.-1", "node.1.7\n"]
    names: list[str | bytes] = ["data", "op", "by", "key", "", "DATA", b"\xff", "x" * 500]
    entries: list[list[str | bytes]] = [["data", "x", "by", each] for each in values]
    entries += [[name, "x"] for name in names]
    entries.append(["data", "a", "data", "b"])
    entries.append(["data", bytes(MIB)])
    entries.append([each for number in range(2000) for each in (f"field{number}", "x")])
    for _ in range(60):
        entries.append([rng.choice(each) for _ in range(rng.randint(1, 6)) for each in (names, values)])
    return entries


@pytest.mark.parametrize("settings", [{}, {"slow": "latest", "key": "x"}, {"exclude_sender": True}], ids=str)
async def test_entries_of_any_kind_are_messages_live_and_loaded(
    nursery: trio.Nursery, redis: RedisServer, caplog: pytest.LogCaptureFixture, settings: dict[str, Any]
) -> None:
    entries = _odd_entries()
    async with rooms(nursery, backplane=redis.url, history=500, history_bytes=8 * MIB, **settings) as live:
        client, other = await live.open("/a", IDS), await live.open("/b")
        await client.frame()
        given = [(await redis.ask("XADD", "rawws:/a", "*", *entry)).strip() for entry in entries]
        got = [await client.frame() for _ in entries] if settings.get("slow") != "latest" else []
        assert [json.loads(seen.payload.partition(b"\n")[0])["id"] for seen in got] in (given, [])
        async with rooms(nursery, backplane=redis.url, history=500, history_bytes=8 * MIB) as late:
            at_both = [await node.poll("/a?last=500") for node in (live, late)]
            assert at_both[0] == at_both[1]
            again = await late.open("/a?last=500", IDS)
            await again.frame()
            assert [await again.frame() for _ in got] == got
        await live.publish("/b", "goes on")
        assert await other.frame() == seen_text("goes on")
    assert [record for record in caplog.records if record.levelname in ("WARNING", "ERROR")] == []


@pytest.mark.parametrize("entry", [("by", "\u00e9.1.1"), ("by", b"\xff.1.1"), ("by", "n" * 5000 + ".1.1")])
async def test_an_entry_that_was_there_before_anybody_read_the_room(
    nursery: trio.Nursery, redis: RedisServer, caplog: pytest.LogCaptureFixture, entry: tuple[str | bytes, ...]
) -> None:
    for fields in (("data", "first"), ("data", "x", *entry), ("data", "last")):
        await redis.ask("XADD", "rawws:/a", "*", *fields)
    async with rooms(nursery, backplane=redis.url, history=100) as node:
        other = await node.open("/b")
        assert [message["text"] for message in (await node.poll("/a?last=10"))["messages"]] == ["first", "x", "last"]
        client = await node.open("/a")
        await node.publish("/a", "hi")
        await node.publish("/b", "hi")
        assert (await client.frame(), await other.frame()) == (seen_text("hi"), seen_text("hi"))
    assert outages(caplog) == []


@pytest.mark.parametrize("when", ["before", "live"])
async def test_an_unreadable_entry_is_skipped_and_logged_once(
    nursery: trio.Nursery,
    redis: RedisServer,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    when: str,
) -> None:
    def read(identifier: bytes, fields: Mapping[bytes, bytes]) -> StreamMessage:
        if fields[b"data"] == b"odd":
            raise AssertionError("we have a bug")
        return read_entry(identifier, fields)

    monkeypatch.setattr(reader, "read_entry", read)
    texts = ["first", "odd", "second", "odd", "last"]
    async with rooms(nursery, backplane=redis.url, history=100) as node:
        if when == "live":
            client = await node.open("/a")
        for each in texts:
            await redis.ask("XADD", "rawws:/a", "*", "data", each)
        if when == "before":
            client = await node.open("/a?last=100")
        assert [(await client.frame()).payload for _ in range(3)] == [b"first", b"second", b"last"]
        await node.publish("/a", "goes on")
        assert await client.frame() == seen_text("goes on")
    logged = [record for record in caplog.records if record.levelname in ("WARNING", "ERROR")]
    assert ["of room /a can't be read; it is passed over" in record.getMessage() for record in logged] == [True]


async def test_an_error_of_our_own_in_one_room_is_no_outage_of_redis(
    nursery: trio.Nursery, redis: RedisServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(reader, "PROBLEM_S", 0.02)
    monkeypatch.setattr(reader, "BLOCK_S", 0.02)
    monkeypatch.setattr("rawws.backplane.redis_streams.LOOK_EVERY_S", 0.02)
    set_ids = RoomBase.set_ids
    failures = 0

    def fail(room: RoomState, ids: Ids) -> None:
        nonlocal failures
        if room.path == "/a" and failures < 3:
            failures += 1
            raise AssertionError("we have a bug")
        set_ids(room, ids)

    monkeypatch.setattr(RoomBase, "set_ids", fail)
    async with rooms(nursery, backplane=redis.url, history=100) as node:
        other = await node.open("/b")
        await node.publish("/a", "hi")
        refused = await node.ask(get("/a?last=1"))
        assert refused.status == 502
        assert node.hub.backplane is not None
        assert not node.hub.backplane.is_away
        await node.publish("/b", "goes on")
        assert await other.frame() == seen_text("goes on")
        while (answer := await node.ask(get("/a?last=1"))).status == 502:
            await trio.sleep(0.01)
        assert json.loads(answer.body)["messages"][0]["text"] == "hi", "it is tried again, from the beginning"
    assert caplog.text.count("an error in rawws itself, in room /a") == 1
    assert outages(caplog) == []


async def test_a_stream_of_large_messages_is_cut(
    nursery: trio.Nursery, redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rawws.broadcast.stream_entries.LEAST_BYTES", 6 * MIB)
    async with rooms(nursery, backplane=redis.url, history=3) as node:
        client = await node.open("/room/x")
        for number in range(20):
            await node.publish("/room/x", bytes(MIB - 1) + bytes([number]))
            assert (await client.frame()).payload[-1] == number
            assert await redis.ask("XLEN", "rawws:/room/x") in ({number + 1} if number < 6 else {5, 6})
        assert 6 * MIB <= await redis.ask("MEMORY", "USAGE", "rawws:/room/x", "SAMPLES", "0") < 8 * MIB
        await redis.ask("XADD", "rawws:/room/y", "*", "data", bytes(80 * MIB))
        await node.publish("/room/y", bytes(MIB - 1))
        assert await redis.ask("XLEN", "rawws:/room/y") == 2, "fewer messages than the history keeps would be left"


@pytest.mark.usefixtures("impatient")
async def test_a_history_without_end(nursery: trio.Nursery, redis: RedisServer) -> None:
    async with rooms(nursery, backplane=redis.url, history=10**20, history_age_s=math.inf) as node:
        client = await node.open("/room/x")
        await node.publish("/room/x", "kept")
        assert await client.frame() == seen_text("kept")
        assert (await node.poll("/room/x?last=1"))["messages"][0]["text"] == "kept"
        assert await redis.ask("TTL", "rawws:/room/x") > 3_000_000_000
        assert await redis.ask("XLEN", "rawws:/room/x") == 1


@pytest.mark.usefixtures("impatient")
async def test_a_room_is_read_again_once_its_key_is_a_stream_again(
    nursery: trio.Nursery, redis: RedisServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(reader, "PROBLEM_S", 0.05)
    async with rooms(nursery, backplane=redis.url) as node:
        client, other = await node.open("/room/x"), await node.open("/room/y")
        await redis.ask("SET", "rawws:/room/x", "a string")
        while "room /room/x can't be read" not in caplog.text:
            await trio.sleep(0.01)
        await node.publish("/room/y", "goes on")
        assert await other.frame() == seen_text("goes on")
        await redis.ask("DEL", "rawws:/room/x")
        await redis.ask("XADD", "rawws:/room/x", "*", "data", "again")
        assert await client.frame() == seen_text("again")
        assert caplog.text.count("can't be read") == 1
        assert outages(caplog) == []


async def test_a_long_stream_is_read_only_as_far_as_the_history_reaches(
    nursery: trio.Nursery, redis: RedisServer
) -> None:
    for _ in range(30):
        await redis.ask("XADD", "rawws:/room/x", "*", "data", bytes(MIB))
    async with rooms(nursery, backplane=redis.url, history=1000, history_bytes=3 * MIB) as node:
        before = await _sent_by(redis)
        assert len((await node.poll("/room/x?last=5"))["messages"]) == 1, "as many as an answer has"
        assert await _sent_by(redis) - before < 6 * MIB


async def _sent_by(redis: RedisServer) -> int:
    """Return the number of bytes that a server has sent to all clients."""
    info = await redis.ask("INFO", "stats")
    return int(info.partition("total_net_output_bytes:")[2].split()[0])


async def test_a_stream_that_takes_many_pages_is_whole(
    nursery: trio.Nursery, redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reader, "PAGE_BYTES", 7 * 1024)  # seven small messages
    async with rooms(nursery, backplane=redis.url, history=1000) as a:
        a.hub.room("/room/x").publish_many([str(number) for number in range(100)])
        await _all_is_published(a)
        last = await a.publish("/room/x", "100")
        async with rooms(nursery, backplane=redis.url, history=60) as b:
            got = await b.poll("/room/x?last=1000")
            assert [int(message["text"]) for message in got["messages"]] == list(range(41, 101))
            assert got["next"] == last["id"]
            late = await b.open("/room/x")
            await a.publish("/room/x", "101")
            assert await late.frame() == seen_text("101")


async def test_a_room_does_not_wait_until_another_is_loaded(
    nursery: trio.Nursery, redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reader, "PAGE_BYTES", 1)
    async with rooms(nursery, backplane=redis.url, history=5000) as a:
        a.hub.room("/long").publish_many([str(number) for number in range(5000)])
        await _all_is_published(a)
        await a.publish("/short", "hi")
        async with rooms(nursery, backplane=redis.url, history=5000) as b:
            here = await b.open("/here")
            async with trio.open_nursery() as asking:
                asking.start_soon(b.hub.prepare, "/long")
                await trio.testing.wait_all_tasks_blocked()
                assert (await b.poll("/short?last=1"))["messages"][0]["text"] == "hi"
                await a.publish("/here", "live")
                assert await here.frame() == seen_text("live")
                assert "0..0" in repr(b.hub.room("/long")), "it is still being read"
                asking.cancel_scope.cancel()


async def test_rooms_are_spread_over_several_redis_servers(
    nursery: trio.Nursery, redis: RedisServer, tmp_path: Path
) -> None:
    (tmp_path / "other").mkdir()
    async with redis_server(tmp_path / "other") as other:
        hubs = rawws.Hub(), rawws.Hub()
        async with rawws.share(hubs[0], redis.url, other.url), rawws.share(hubs[1], other.url, redis.url):
            servers = [await nursery.start(rawws.serve, hub, 0) for hub in hubs]
            for number in range(20):
                here, there = [
                    await (await Client.unconnected().connect(server.port)).open(f"/room/{number}")
                    for server in servers
                ]
                await here.send(text(str(number)))
                assert await there.frame() == seen_text(str(number))
                here.hang_up()
                there.hang_up()
            for server in (redis, other):
                info = await server.ask("INFO", "keyspace")
                assert int(info.partition("keys=")[2].partition(",")[0]) > 3, "both have some of the rooms"
            await hubs[0].room("/room/x").ready()
            for running in servers:
                running.stop()


@pytest.mark.usefixtures("impatient")
async def test_an_outage_of_one_of_several_servers_concerns_its_own_rooms_only(
    nursery: trio.Nursery, redis: RedisServer, tmp_path: Path
) -> None:
    (tmp_path / "other").mkdir()
    async with redis_server(tmp_path / "other") as other, rooms(nursery, backplane=(redis.url, other.url)) as node:
        assert node.hub.backplane is not None
        here, gone = [
            next(path for path in map(str, range(100)) if str(server.port) in repr(node.hub.backplane.of(f"/{path}")))
            for server in (redis, other)
        ]
        client = await node.open(f"/{here}")
        await node.publish(f"/{gone}", "hi")
        other.kill()
        while not node.hub.backplane.is_away:
            await trio.sleep(0.01)
        assert (await node.ask(post(f"/{gone}", b"hi"))).status == 503
        await node.publish(f"/{here}", "goes on")
        assert await client.frame() == seen_text("goes on")


async def test_a_room_that_a_program_holds_already_is_shared(nursery: trio.Nursery, redis: RedisServer) -> None:
    hub = rawws.Hub(history=10)
    held = hub.room("/room/x")
    held.publish("to nobody")
    gone = rawws.Hub()
    held_without_history = gone.room("/room/y")
    held_without_history.publish("to nobody")
    with pytest.raises(UsageError, match="share a hub before anybody is in it"):
        async with rawws.share(hub, redis.url):
            pass
    async with rawws.share(gone, redis.url), rooms(nursery, backplane=redis.url) as other:
        client = await other.open("/room/y")
        held_without_history.publish("to all")
        assert await client.frame() == seen_text("to all")
        assert await gone.prepare("/room/y") is None
        assert await gone.prepare("/room/z") is None


def test_an_additional_server_moves_rooms_only_to_itself() -> None:
    paths = [f"/room/{number}" for number in range(300)]
    hub, name = rawws.Hub(), NodeName("node", "")
    urls = ("redis://a", "redis://b", "redis://c")
    streams = {url: RedisStreams(url, hub.refuse_room, name, hub.commands) for url in urls}
    few = Shards({url: streams[url] for url in ("redis://a", "redis://b")})
    turned = Shards({url: streams[url] for url in ("redis://b", "redis://a")})
    more = Shards(streams)
    assert [few.of(path) for path in paths] == [turned.of(path) for path in paths]
    moved = [path for path in paths if more.of(path) is not few.of(path)]
    assert all(more.of(path) is streams["redis://c"] for path in moved)
    assert 60 < len(moved) < 140


async def test_a_hub_with_rooms_is_not_shared_any_more(nursery: trio.Nursery) -> None:
    async with rooms(nursery) as node:
        await node.open("/room/x")
        with pytest.raises(UsageError, match="share a hub before anybody is in it"):
            async with rawws.share(node.hub, "redis://localhost"):
                pass


async def test_a_program_can_not_share_rooms_as_workers_do() -> None:
    with pytest.raises(UsageError, match="local: is for the workers of rawws serve; a program gives the URL of"):
        async with rawws.share(rawws.Hub(), "local:"):
            pass


async def test_a_redis_that_has_forgotten_the_script_is_not_away(
    nursery: trio.Nursery, redis: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    async with rooms(nursery, backplane=redis.url) as node:
        client = await node.open("/room/x")
        await node.publish("/room/x", "one")
        await redis.ask("SCRIPT", "FLUSH")  # as by a restart that no node noticed
        await node.publish("/room/x", "two")
        assert await client.frames(2) == [seen_text("one"), seen_text("two")]
    assert outages(caplog) == []


# Redis goes away, and comes back


@pytest.mark.usefixtures("impatient", "bounded")
async def test_redis_is_not_there_yet(
    nursery: trio.Nursery,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO")
    for limit in ("START_S", "OPEN_TIMEOUT_S"):
        monkeypatch.setattr(f"rawws.backplane.redis_streams.{limit}", 0.1)
    async with redis_server(tmp_path) as server:
        server.kill()
        async with rooms(nursery, backplane=server.url) as node:
            refused = await node.ask(upgrade("/room/x"))
            assert (refused.status, refused.headers["retry-after"]) == (503, "1")
            answer = await node.ask(post("/room/x", b"hi"))
            assert (answer.status, answer.headers["retry-after"]) == (503, "1")
            assert "the backplane is away" in caplog.text
            monkeypatch.setattr("rawws.backplane.redis_streams.OPEN_TIMEOUT_S", PATIENCE_S)
            await server.start()
            while node.hub.backplane is None or node.hub.backplane.is_away:
                await trio.sleep(0.01)
            client = await node.open("/room/x")
            await node.publish("/room/x", "hi")
            assert await client.frame() == seen_text("hi")


@pytest.mark.usefixtures("impatient", "bounded")
@pytest.mark.parametrize("faults", [2, pytest.param(8, marks=pytest.mark.thorough)])
@pytest.mark.parametrize("fault", ["kill -9", "SIGSTOP", "cut", "lost answers", "late batches"])
async def test_no_message_is_lost_or_duplicated_when_redis_fails_and_returns(
    nursery: trio.Nursery, tmp_path: Path, fault: str, faults: int
) -> None:
    total = 500 * faults
    async with (
        redis_server(tmp_path, *DURABLE) as server,
        network(server.port) as between,
        rooms(nursery, backplane=between.url, history=5000) as a,
        rooms(nursery, backplane=server.url) as b,
    ):
        readers = [await a.open("/room/x"), await b.open("/room/x")]
        writer = await a.open("/room/x")
        got: list[list[int]] = [[], []]

        async def read(which: int) -> None:
            got[which] = await numbers_up_to(readers[which], total - 1)

        async def write() -> None:
            for number in range(total):
                await writer.send(text(str(number)))
                if number % 20 == 0:
                    await trio.sleep(0.005)

        async def break_it() -> None:
            for _ in range(faults):
                await trio.sleep(0.1)
                await _break(fault, server, between)

        async with trio.open_nursery() as working:
            working.start_soon(read, 0)
            working.start_soon(read, 1)
            working.start_soon(write)
            working.start_soon(break_it)
        for each in got:
            wrong = [(before, number) for before, number in pairwise(each) if number != before + 1]
            assert (each[0], wrong) == (0, [])


async def _break(fault: str, server: RedisServer, between: Network) -> None:
    match fault:
        case "kill -9":
            server.kill()
            await trio.sleep(0.1)
            await server.start()
        case "SIGSTOP":
            server.pause()
            await trio.sleep(0.6)
            server.go_on()
        case "cut":
            between.cut()
            await trio.sleep(0.1)
            between.heal()
        case "lost answers":  # commands reach Redis, and its answers don't come back
            between.hold(to_server=False)
            await trio.sleep(0.05)
            between.cut()
            between.heal()
        case _:  # a batch arrives only when it has been given up, and sent again
            let_go = between.hold(to_server=True)
            await trio.sleep(0.6)
            let_go()


@pytest.mark.usefixtures("impatient")
async def test_publishers_are_held_back_while_too_much_waits(
    nursery: trio.Nursery, redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(publisher, "MAX_WAITING_BYTES", 20_000)
    async with network(redis.port) as between, rooms(nursery, backplane=between.url) as node:
        reader_, writer = await node.open("/room/x"), await node.open("/room/x")
        between.cut()
        sent = 0
        with trio.move_on_after(0.3):
            while True:
                await writer.send(text(f"{sent:01000}"))
                sent += 1
        backplane = state_of(node.hub.room("/room/x")).shared
        assert backplane is not None
        assert backplane.is_full
        assert backplane.waiting < sent // 2, "bytes that the sockets hold are not read"
        assert node.hub.room("/room/x").is_held
        assert (await node.ask(post("/room/x", b"hi"))).status == 503
        with trio.move_on_after(0.02) as waiting:
            await node.hub.room("/room/x").ready()
        assert waiting.cancelled_caught
        between.heal()
        assert [int(seen.payload) for seen in await reader_.frames(sent)] == list(range(sent))
        assert not node.hub.room("/room/x").is_held


@pytest.mark.usefixtures("impatient")
async def test_peers_that_join_a_held_room_publish_nothing_until_it_is_released(
    nursery: trio.Nursery, redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(publisher, "MAX_WAITING_BYTES", 1000)
    async with network(redis.port) as between, rooms(nursery, backplane=between.url) as node:
        reader_, writer = await node.open("/room/x"), await node.open("/room/x")
        between.cut()
        used_bytes = current_loop().memory.used_bytes()
        await writer.send(text("x" * 1000))
        room = node.hub.room("/room/x")
        while not room.is_held:
            await trio.testing.wait_all_tasks_blocked()
        shared = state_of(room).shared
        assert shared is not None
        assert current_loop().memory.used_bytes() >= used_bytes + 1000
        waiting = shared.waiting
        late, early, gone = [await node.open("/room/x") for _ in range(3)]
        hasty = await node.connect()
        await hasty.send(upgrade("/room/x") + text("with the request"))
        assert (await hasty.answer()).status == 101
        await late.send(text("late"))
        await early.send(text("said, and gone") + close(1000))
        await gone.send(text("said, and reset"))
        for _ in range(3):
            await trio.testing.wait_all_tasks_blocked()
        assert shared.waiting == waiting
        gone.reset()
        between.heal()
        got = {(await reader_.frame()).payload for _ in range(5)}
        assert got == {b"x" * 1000, b"late", b"said, and gone", b"said, and reset", b"with the request"}
        assert (await early.frames_to_close())[-1].opcode is Opcode.CLOSE
        await late.send(text("again"))
        assert await reader_.frame() == seen_text("again")


@pytest.mark.usefixtures("impatient")
async def test_accepted_messages_go_out_before_the_end(nursery: trio.Nursery, redis: RedisServer) -> None:
    async with network(redis.port) as between, rooms(nursery, backplane=redis.url) as other:
        reader_ = await other.open("/room/x")
        hub = rawws.Hub()
        async with rawws.share(hub, between.url) as backplane:
            while backplane.is_away:
                await trio.sleep(0.01)
            let_go = between.hold(to_server=True)
            hub.room("/room/x").publish("at last")
            nursery.start_soon(_later, 0.1, let_go)
        assert await reader_.frame() == seen_text("at last")


@pytest.mark.usefixtures("impatient")
async def test_accepted_messages_that_are_lost_are_logged(
    redis: RedisServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("rawws.backplane.sharing.FLUSH_S", 0.05)
    hub = rawws.Hub()
    async with rawws.share(hub, redis.url):
        redis.kill()
        hub.room("/room/x").publish_many(("one", "two"))
    assert "accepted messages that are lost, since the backplane is away: 2" in caplog.text


async def _later(seconds: float, work: Callable[[], None]) -> None:
    await trio.sleep(seconds)
    work()


@pytest.mark.usefixtures("impatient")
async def test_a_reader_that_gets_as_much_as_it_asked_for_reads_on(
    nursery: trio.Nursery, redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reader, "READ", 7)
    async with rooms(nursery, backplane=redis.url, history=3) as a, rooms(nursery, backplane=redis.url) as b:
        clients = [await a.open("/room/x"), await b.open("/room/x")]
        a.hub.room("/room/x").publish_many([str(number) for number in range(300)])
        for client in clients:
            assert await numbers_up_to(client, 299) == list(range(300))


@pytest.mark.usefixtures("impatient", "bounded")
async def test_redis_comes_back_without_its_data(
    nursery: trio.Nursery, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "rawws.server")
    async with redis_server(tmp_path) as server, rooms(nursery, backplane=server.url, history=50) as node:
        plain = await node.open("/room/x")
        named, _ = await open_with_ids(node, "/room/x")
        events = await node.stream("/room/x")
        before = [(await node.publish("/room/x", str(number)))["id"] for number in range(3)]
        assert [(await next_with_id(named))[0] for _ in before] == before
        await plain.frames(3)
        await events.events(3)
        server.kill()
        await server.start()
        notice = json.loads((await named.frame()).payload)
        assert notice["gap"]["since"] == before[-1]
        assert "may have been missed" in caplog.text
        assert "the stream in Redis was deleted or lost, and begins anew" in caplog.text
        while "the backplane is back" not in caplog.text:  # readers may be connected again before the publisher is
            await trio.sleep(0.01)
        after = await node.publish("/room/x", "again")
        assert await next_with_id(named) == (after["id"], b"again")
        assert await plain.frame() == seen_text("again")
        gap, message = await events.events(2)
        assert (gap.kind, json.loads(gap.data)["since"], message.data) == ("gap", before[-1], "again")
        polled = await node.poll(f"/room/x?since={before[-1]}")
        assert polled["gap"]["since"] == before[-1]
        assert [message["text"] for message in polled["messages"]] == ["again"]
        later, _ = await open_with_ids(node, f"/room/x?since={after['id']}")
        assert later


@pytest.mark.usefixtures("impatient", "bounded")
async def test_a_message_is_delivered_once_if_redis_is_lost_before_it_answers(
    nursery: trio.Nursery, tmp_path: Path
) -> None:
    async with (
        redis_server(tmp_path) as server,
        network(server.port) as between,
        network(server.port) as between_others,
        rooms(nursery, backplane=between.url) as node,
        rooms(nursery, backplane=between_others.url) as other,
    ):
        blind = await other.open("/room/x")
        while node.hub.backplane is None or node.hub.backplane.is_away:
            await trio.sleep(0.01)
        await node.publish("/elsewhere", "")
        between.hold(to_server=False)  # as the publisher has a connection, and no reader has
        client = await node.open("/room/x")
        between_others.hold(to_server=False)
        room = node.hub.room("/room/x")
        room.publish("once")
        assert await client.frame() == seen_text("once")
        server.kill()
        await server.start()
        room.publish("after")
        assert await client.frame() == seen_text("after")
        assert await blind.frames(2) == [seen_text("once"), seen_text("after")]


@pytest.mark.usefixtures("impatient")
async def test_a_node_that_was_away_for_too_long_sends_a_gap(
    nursery: trio.Nursery, redis: RedisServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("rawws.broadcast.stream_entries.LEAST_ENTRIES", 100)
    async with (
        network(redis.port) as between,
        rooms(nursery, backplane=redis.url) as quick,
        rooms(nursery, backplane=between.url) as away,
    ):
        there = await quick.open("/room/x")
        here, _ = await open_with_ids(away, "/room/x")
        first = await quick.publish("/room/x", "0")
        assert await next_with_id(here) == (first["id"], b"0")
        between.cut()
        for number in range(1, 500):
            quick.hub.room("/room/x").publish(str(number))
            if number % 50 == 0:  # a larger batch would be trimmed before any node had read it
                await quick.publish("/elsewhere", "")
        assert await numbers_up_to(there, 499) == list(range(500)), "other nodes are not affected"
        between.heal()
        notice = json.loads((await here.frame()).payload)
        assert notice["gap"]["since"] == first["id"]
        got = [int((await next_with_id(here))[1])]
        while got[-1] != 499:
            got.append(int((await next_with_id(here))[1]))
        assert got == list(range(got[0], 500)), "all messages from there on"
        assert "trimmed before they were read" in caplog.text


@pytest.mark.usefixtures("prompt", "bounded")
async def test_a_replica_that_lagged_takes_over(nursery: trio.Nursery, tmp_path: Path) -> None:
    (tmp_path / "replica").mkdir()
    async with (
        redis_server(tmp_path, *AT_ONCE) as primary,
        redis_server(tmp_path / "replica", "--replicaof", f"127.0.0.1 {primary.port}") as replica,
        network(primary.port) as between,
        rooms(nursery, backplane=between.url, history=50) as node,
    ):
        client, _ = await open_with_ids(node, "/room/x")
        kept = await node.publish("/room/x", "kept")
        while await replica.ask("XLEN", "rawws:/room/x") < 1:
            await trio.sleep(0.01)
        await replica.ask("REPLICAOF", "NO", "ONE")  # from here on it gets nothing
        lost = await node.publish("/room/x", "lost")
        assert [(await next_with_id(client))[0] for _ in range(2)] == [kept["id"], lost["id"]]
        between.cut()
        between.target = replica.port
        between.heal()
        assert json.loads((await client.frame()).payload)["gap"]["since"] == lost["id"]
        after = await node.publish("/room/x", "after")
        assert await next_with_id(client) == (after["id"], b"after")


@pytest.mark.usefixtures("prompt", "bounded")
async def test_sentinels_say_where_the_primary_is(nursery: trio.Nursery, tmp_path: Path) -> None:
    for name in ("replica", "sentinel"):
        (tmp_path / name).mkdir()
    async with (
        redis_server(tmp_path, *AT_ONCE) as primary,
        redis_server(tmp_path / "replica", "--replicaof", f"127.0.0.1 {primary.port}") as replica,
    ):
        configuration = tmp_path / "sentinel" / "sentinel.conf"
        configuration.write_text(
            f"sentinel monitor rooms 127.0.0.1 {primary.port} 1\n"
            "sentinel down-after-milliseconds rooms 300\nsentinel failover-timeout rooms 2000\n"
        )
        sentinel = RedisServer(tmp_path / "sentinel")
        try:
            await sentinel.watch(configuration)
            url = f"redis+sentinel://127.0.0.1:{sentinel.port}/rooms"
            async with rooms(nursery, backplane=url) as node:
                client = await node.open("/room/x")
                await node.publish("/room/x", "before")
                while await replica.ask("XLEN", "rawws:/room/x") < 1:
                    await trio.sleep(0.01)
                while "slaves=1" not in await sentinel.ask("INFO", "sentinel"):
                    await trio.sleep(0.05)
                primary.kill()
                await client.send(text("accepted while there was none"))
                assert await client.frames(2) == [seen_text("before"), seen_text("accepted while there was none")]
                assert await replica.ask("XLEN", "rawws:/room/x") == 2
        finally:
            sentinel.end()


async def test_a_client_resumes_at_another_node_when_its_own_dies(
    redis: RedisServer, start_program: StartProgram
) -> None:
    nodes = [start_program("--backplane", redis.url, "--history", "100", "--hello", "") for _ in range(2)]
    ports = [node.port for node in nodes]
    async with rawws.connect(f"ws://127.0.0.1:{ports[0]}/room/x", resume=True) as ws:
        await ws.send("one")
        assert await ws.recv() == "one"
        since = ws.last_id
        nodes[0].kill()
        with pytest.raises(rawws.ConnectionClosed):
            await ws.recv()
    client = await nodes[1].connect()
    ready = await client.ask(get("/readyz"))
    assert (ready.status, ready.body) == (200, b"ready")
    client.hang_up()
    async with rawws.connect(f"ws://127.0.0.1:{ports[1]}/room/x") as other:
        await other.send("two")
        assert await other.recv() == "two"
    async with rawws.connect(f"ws://127.0.0.1:{ports[1]}/room/x", resume=since) as again:
        assert (await again.recv(), again.gap) == ("two", None)


@pytest.mark.parametrize("was_there", [True, pytest.param(False, marks=pytest.mark.thorough)])  # a start waits for 5 s
async def test_a_node_without_redis_is_not_ready(
    redis: RedisServer, start_program: StartProgram, was_there: bool
) -> None:
    if was_there:
        program = start_program("--metrics", "--backplane", redis.url)
        redis.kill()
        program.wait_for_line("the backplane is away (")
    else:
        redis.kill()
        program = start_program("--metrics", "--backplane", redis.url)
    assert [line for line in program.lines if "WARNING" in line and "the backplane is away (" in line]
    client = await program.connect()
    answer = await client.ask(get("/readyz"))
    assert (answer.status, answer.body) == (503, b"the backplane is away")
    assert (await client.ask(get("/healthz"))).status == 200
    metrics = (await client.ask(get("/metrics"))).body
    assert b"\nrawws_backplane_up 0.0\n" in metrics
    assert b"\nrawws_backplane_waiting_messages 0.0\n" in metrics
    client.hang_up()


async def test_the_first_post_finds_redis(
    nursery: trio.Nursery, redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rawws.backplane.redis_streams.START_S", PATIENCE_S)
    async with network(redis.port) as between:
        between.cut()
        nursery.start_soon(_later, 0.2, between.heal)
        async with rooms(nursery, backplane=between.url) as node:
            assert node.hub.backplane is not None
            assert not node.hub.backplane.is_away
            await node.publish("/room/x", "first of all")


async def test_ids_of_the_future_are_answered_at_once(
    nursery: trio.Nursery, redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A check that a reader waits for never happens.
    monkeypatch.setattr("rawws.backplane.redis_streams.LOOK_EVERY_S", math.inf)
    monkeypatch.setattr(reader, "RECHECK_S", math.inf)
    async with rooms(nursery, backplane=redis.url, history=10) as node, rooms(nursery, history=10) as alone:
        for each in (node, alone):
            await each.open("/room/x")
            await each.publish("/room/x", "now")
        polled = await node.poll("/room/x?since=9999999999999-0")
        assert polled["gap"] == {"since": "9999999999999-0", "after": polled["next"]}
        events = await node.stream("/room/x", "Last-Event-ID: 9999999999999-0")
        assert (await events.events(1))[0].kind == "gap"
        client = await node.open("/room/x?since=9999999999999-0", IDS)
        assert "gap" in json.loads((await client.frame()).payload)
        for malformed in ("x", "1", "1-", "-1-0", f"{1 << 64}-0"):
            answers = [(await each.ask(get(f"/room/x?since={malformed}"))).status for each in (node, alone)]
            assert answers[0] == answers[1]


# Invalid addresses


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("localhost:6379", "the address of Redis begins with no scheme; give one of redis://HOST, "),
        ("localhost", "the address of Redis begins with no scheme; give one of redis://HOST, "),
        ("http://localhost", "http:// is not a scheme for Redis"),
        ("redis://localhost:port", "is not a valid URL for Redis"),
        ("redis://", "is not a valid URL for Redis"),
        ("redis://localhost/db", "is not a valid URL for Redis"),
        ("unix://run/redis.sock", "is not a valid URL for Redis"),
        ("redis+cluster://a,b", "a Redis Cluster can't be asked for several streams at once"),
        ("redis+sentinel://a,b", "names the service"),
        ("redis://localhost?dbb=1", "the option 'dbb', which rawws doesn't support for redis://; did you mean db?"),
        ("redis://localhost?noreply=1", "it has db and client_name"),
        (
            "redis://localhost?ssl_ca_certs=file",
            "'ssl_ca_certs', which rawws doesn't support for redis://; it is for rediss://",
        ),
        ("rediss://localhost?ssl_ca_cert=file", "did you mean ssl_ca_certs?"),
        ("rediss://localhost?ssl_ca_certs=/nowhere/file", "the TLS files in Redis's URL can't be used: No such file"),
        ("rediss://localhost?ssl_cert_reqs=no", "give required, optional or none"),
        ("rediss://localhost?ssl_certfile=file", "ssl_certfile and ssl_keyfile in Redis's URL go together"),
        ("redis://localhost?db=one", "the option db in Redis's URL can't have this value; give a number"),
        ("redis://localhost?client_name", "client_name in .* can't have this value; give ASCII characters without"),
        ("redis://localhost/1?db=2", "has db twice"),
        ("redis://localhost?db=1&db=2", "has db twice"),
        ("redis+sentinel://a/service?db=1", r"doesn't support for redis\+sentinel://; leave it out"),
        ("redis://localhost/1#db=2", "is not a valid URL for Redis"),
    ],
)
def test_an_invalid_url_is_refused(url: str, reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        Connector(url)


@pytest.mark.parametrize(
    "url",
    [
        "redis://me:{}/word@localhost",
        "redis://me:{}?word@localhost",
        "redis://me:{}#word@localhost",
        "redis://me:{}[word@localhost",
        "redis://me:{}",
        "redis+sentinel://me:{}/word@localhost/service",
    ],
)
def test_an_error_shows_no_part_of_a_password_that_is_not_percent_encoded(url: str) -> None:
    with pytest.raises(UsageError, match="percent-encoded") as caught:
        Connector(url.format("secret"))
    assert "secret" not in str(caught.value)
    assert "word@" not in str(caught.value)


async def test_special_characters_of_a_password_are_percent_encoded(redis: RedisServer) -> None:
    await redis.ask("CONFIG", "SET", "requirepass", "a/b?c#d@e")
    async with Connector(f"redis://:a%2Fb%3Fc%23d%40e@{LOOPBACK}:{redis.port}").connect() as client:
        assert await client.ping() == b"PONG"


@pytest.mark.usefixtures("bounded")
async def test_a_cancelled_connection_attempt_is_no_outage_of_redis() -> None:
    troubles: list[Trouble] = []

    async def work(_: object) -> None:
        raise AssertionError("nobody has answered")

    with socket.create_server((LOOPBACK, 0)) as mute:
        connector = Connector(f"redis://{LOOPBACK}:{mute.getsockname()[1]}")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(partial(connector.run_with_reconnect, work, on_away=troubles.append))
            connected, _ = await trio.to_thread.run_sync(mute.accept)
            with connected:
                await wait_all_tasks_blocked()
                nursery.cancel_scope.cancel()
    assert troubles == []


async def test_a_missing_extra_is_a_usage_error_with_advice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "coredis", None)
    with pytest.raises(UsageError, match=r"coredis, which isn't installed: .* install .*'coredis>="):
        async with rawws.share(rawws.Hub(), "redis://localhost"):
            pass


def test_a_connector_shows_no_password() -> None:
    assert str(Connector("redis://me:secret@localhost:6379/2")) == "redis://localhost:6379/2"
