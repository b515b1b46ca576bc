"""Commands that go from one node to all others, and questions that all answer, with a real Redis that fails."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio

import rawws
from rawws.backplane import command_reader, command_work, commander, connector, publisher, reader
from rawws.backplane.redis_streams import RedisStreams
from rawws.broadcast.node_answers import Gathered
from rawws.broadcast.node_commands import Command
from rawws.broadcast.stream_entries import Author
from tests.backplane.commands import BANNED, answering, ask, is_open, lines, name_in_query, node
from tests.redis_server import RedisServer, network, outages, redis_server
from tests.room_serving import Rooms
from tests.serving.client import Client
from tests.serving.machine import PATIENCE_S
from tests.serving.wire import seen_text, text

KEY = "rawws:commands"


@pytest.fixture
async def redis(bounded: None, tmp_path: Path) -> AsyncIterator[RedisServer]:  # noqa: ARG001
    async with redis_server(tmp_path) as server:
        yield server


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Set short timeouts and pauses for the connections to Redis."""
    for module in (connector, publisher, reader, commander, command_reader):
        monkeypatch.setattr(module, "TIMEOUT_S", 0.4)
    monkeypatch.setattr(connector, "MAX_REST_S", 0.1)
    for module in (reader, command_reader):
        monkeypatch.setattr(module, "BLOCK_S", 0.2)
        monkeypatch.setattr(module, "RECHECK_S", 0.1)
        monkeypatch.setattr(module, "PROBLEM_S", 0.1)
    monkeypatch.setattr("rawws.backplane.redis_streams.START_S", 1.0)


# A disconnect


async def test_a_disconnect_goes_through_each_of_several_servers(
    nursery: trio.Nursery, redis: RedisServer, tmp_path: Path
) -> None:
    (tmp_path / "second").mkdir()
    async with redis_server(tmp_path / "second") as second:
        urls = (redis.url, second.url)
        async with node(nursery, backplane=urls) as a, node(nursery, backplane=urls) as b:
            clients = [await b.open(f"/room/{number}?user=Al") for number in range(8)]
            a.hub.disconnect(user="Al", code=4403, reason="banned")
            for client in clients:
                assert await client.frame() == BANNED
            assert [await each.ask("XLEN", KEY) for each in (redis, second)] == [1, 1]


@pytest.mark.thorough
@pytest.mark.usefixtures("impatient")
async def test_a_command_waits_for_the_server_of_its_rooms(
    nursery: trio.Nursery, redis: RedisServer, tmp_path: Path
) -> None:
    (tmp_path / "second").mkdir()
    async with redis_server(tmp_path / "second") as second, network(second.port) as between:
        urls = (redis.url, between.url)
        async with node(nursery, backplane=urls) as a, node(nursery, backplane=urls) as b:
            shards = a.hub.backplane
            assert shards is not None
            paths = {between.url in repr(shards.of(path)): path for path in (f"/room/{each}" for each in range(100))}
            of_first, of_second = paths[False], paths[True]
            here, there = await b.open(f"{of_first}?user=Al"), await b.open(f"{of_second}?user=Al")
            between.cut()
            a.hub.room(of_second).publish("the last words")
            a.hub.disconnect(user="Al", code=4403, reason="banned")
            assert await here.frame() == BANNED
            between.heal()
            assert await there.frames(2) == [seen_text("the last words"), BANNED]


# Failures of Redis


@pytest.mark.usefixtures("impatient")
async def test_a_node_that_was_away_carries_out_what_it_has_missed(nursery: trio.Nursery, redis: RedisServer) -> None:
    async with (
        network(redis.port) as between,
        node(nursery, backplane=redis.url) as a,
        node(nursery, backplane=between.url) as b,
    ):
        clients = [await b.open(f"/room/x?user={name}") for name in ("Al", "Bo", "Cy")]
        between.cut()
        for name in ("Al", "Bo"):
            a.hub.disconnect(user=name, code=4403, reason="banned")
        while await redis.ask("XLEN", KEY) != 2:
            await trio.sleep(0.01)
        between.heal()
        for client in clients[:2]:
            assert await client.frame() == BANNED
        assert await is_open(clients[2], a)


@pytest.mark.usefixtures("impatient")
async def test_a_disconnect_waits_for_a_redis_that_is_away(
    nursery: trio.Nursery, redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(commander, "MAX_WAITING", 3)
    async with (
        network(redis.port) as between,
        node(nursery, backplane=between.url) as a,
        node(nursery, backplane=redis.url) as b,
    ):
        there = [await b.open(f"/room/x?user={name}") for name in ("Al", "Bo", "Cy", "Di")]
        here = await a.open("/room/x?user=Di")
        between.cut()
        for name in ("Al", "Bo", "Cy"):
            assert a.hub.disconnect(user=name, code=4403, reason="banned") == 0
        with pytest.raises(rawws.BackplaneAway, match="3 commands to the other nodes wait for the backplane already"):
            a.hub.disconnect(user="Di", code=4403, reason="banned")
        assert await here.frame() == BANNED, "at this node it is done"
        between.heal()
        for client in there[:3]:
            assert await client.frame() == BANNED
        assert await is_open(there[3], b), "its caller was told"
        assert a.hub.disconnect(user="Di", code=4403, reason="banned") == 0
        assert await there[3].frame() == BANNED


@pytest.mark.usefixtures("impatient")
async def test_a_command_outlives_a_redis_that_comes_back_without_its_data(
    nursery: trio.Nursery, redis: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    async with (
        network(redis.port) as between,
        node(nursery, backplane=redis.url) as a,
        node(nursery, backplane=redis.url) as witness,
        node(nursery, backplane=between.url) as b,
    ):
        client, early = await b.open("/room/x?user=Al"), await witness.open("/room/x?user=Al")
        between.cut()
        a.hub.disconnect(user="Al", code=4403, reason="banned")
        assert await early.frame() == BANNED
        late = await witness.open("/room/y?user=Al")
        redis.kill()
        await redis.start()
        between.heal()
        assert await client.frame() == BANNED
        assert await is_open(late, a, "/room/y"), "a command is carried out once"
    assert lines(caplog, "commands of other nodes may have been missed")


@pytest.mark.thorough
@pytest.mark.usefixtures("impatient")
async def test_a_command_that_redis_confirmed_and_lost_is_sent_again(
    nursery: trio.Nursery, redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with (
        network(redis.port) as between,
        node(nursery, backplane=redis.url) as a,
        node(nursery, backplane=between.url) as b,
    ):
        client = await b.open("/room/x?user=Al")
        await _told(a, redis, "Nobody")
        between.cut()
        with monkeypatch.context() as unread:
            unread.setattr("rawws.broadcast.node_commands.KeptCommands.note_back", lambda *_: None)
            await _told(a, redis, "Al")
            last = await redis.ask("EVAL", f"return redis.call('XREVRANGE', '{KEY}', '+', '-')[1][1]", "0")
            assert await redis.ask("XDEL", KEY, last.strip()) == 1  # a look finds nothing wrong with the stream
        between.heal()
        assert await client.frame() == BANNED


async def _told(where: Rooms, redis: RedisServer, user: str) -> None:
    """Give a command, and wait until it is in Redis."""
    before = await redis.ask("XLEN", KEY)
    where.hub.disconnect(user=user, code=4403, reason="banned")
    while await redis.ask("XLEN", KEY) == before:
        await trio.sleep(0.01)


async def _publish_on(where: Rooms, path: str, message: str) -> None:
    while True:
        await where.publish(path, message)
        await trio.sleep(0.02)


@pytest.mark.usefixtures("impatient")
async def test_a_node_that_starts_without_redis_carries_out_what_was_given_since(
    nursery: trio.Nursery, redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rawws.backplane.redis_streams.START_S", 0.1)
    hub = rawws.Hub()

    async def handle(ws: rawws.WebSocket) -> None:
        async with hub.room("/news").join(ws):
            await ws.send("joined")
            async for _ in ws:
                pass

    async with node(nursery, backplane=redis.url) as a, network(redis.port) as between:
        await _told(a, redis, "Bo")
        await trio.sleep(0.01)
        between.cut()
        async with rawws.share(hub, between.url):
            server = await nursery.start(partial(rawws.serve, handle, 0, authenticate=name_in_query))
            early, client = [await Client.unconnected().connect(server.port) for _ in range(2)]
            for each, name in ((early, "Bo"), (client, "Al")):
                await each.open(f"/?user={name}")
                assert await each.frame() == seen_text("joined")
            await _told(a, redis, "Al")
            between.heal()
            assert await client.frame() == BANNED
            async with trio.open_nursery() as publishing:
                publishing.start_soon(_publish_on, a, "/news?user=admin", "later")  # the room is still to be loaded
                assert await early.frame() == seen_text("later"), "Bo's command is from before the start"
                publishing.cancel_scope.cancel()
            for each in (early, client):
                each.hang_up()
            server.stop()


async def test_commands_that_reach_nobody_before_the_end_are_logged(
    nursery: trio.Nursery, redis: RedisServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("rawws.backplane.sharing.FLUSH_S", 0.1)
    async with node(nursery, backplane=redis.url) as a:
        redis.kill()
        a.hub.disconnect(user="Al")
        a.hub.disconnect(user="Bo")
    assert lines(caplog, "commands that no other node gets, since the backplane is away: 2")


# Entries by strangers


@pytest.mark.usefixtures("impatient")
async def test_entries_that_are_no_commands_are_passed_over_and_logged_once(
    nursery: trio.Nursery, redis: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    async with node(nursery, backplane=redis.url) as a, node(nursery, backplane=redis.url) as b:
        client = await b.open("/room/x?user=Al")
        by, big = "ab.0.1", b"x" * 2_000_000
        for number in range(3):
            await redis.ask("XADD", KEY, "*", "data", "hello")
            await redis.ask("XADD", KEY, "*", b"\xff", b"\xfe")
            await redis.ask("XADD", KEY, "*", "kind", "disconnect/1", "by", by, "body", big)
            await redis.ask("XADD", KEY, "*", "kind", "disconnect/2", "by", f"old.0.{number}", "body", "{}")
            await redis.ask("XADD", KEY, "*", "kind", "peers/7", "by", f"old.0.{number}", "body", "{}", "ask", "1")
            for user in ("null", '["Al"]', '{"a": 1}', "true"):
                body = f'{{"user": {user}, "code": 1008, "reason": ""}}'
                await redis.ask("XADD", KEY, "*", "kind", "disconnect/1", "by", f"{number}.0.{user[:1]}1", "body", body)
            for body in (
                '{"user": "Al"}',
                '{"user": "Al", "code": 1, "reason": ""}',
                f'{{"user": "Al", "code": 1000, "reason": "{"x" * 200}"}}',
            ):
                await redis.ask(
                    "XADD", KEY, "*", "kind", "disconnect/1", "by", f"odd.0.{number}{len(body)}", "body", body
                )
        assert await is_open(client, a)
        a.hub.disconnect(user="Al", code=4403, reason="banned")
        assert await client.frame() == BANNED
    assert len(lines(caplog, "is no command")) == 2, "once for each node"
    for kind, why in (
        ("disconnect/2", "doesn't know it"),
        ("peers/7", "doesn't know it"),
        ("disconnect/1", "arguments"),
    ):
        found = lines(caplog, f"the command {kind} of node")
        assert (len(found), why in found[0]) == (2, True)


@pytest.mark.thorough
@pytest.mark.usefixtures("impatient")
async def test_a_key_that_is_no_stream_is_logged_once_and_commands_go_on_without_it(
    nursery: trio.Nursery, redis: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    async with node(nursery, backplane=redis.url) as a, node(nursery, backplane=redis.url) as b:
        client = await b.open("/room/x?user=Al")
        await _told(a, redis, "Bo")
        await redis.ask("SET", KEY, "something else")
        while len(lines(caplog, f"commands of other nodes can't be read: the key {KEY}")) < 2:
            await trio.sleep(0.01)
        assert await is_open(client, a), "rooms go on"
        a.hub.disconnect(user="Al", code=4403, reason="banned")  # Redis refuses it
        while not lines(
            caplog, "the command disconnect/1 to other nodes can't be published, and is dropped: WRONGTYPE"
        ):
            await trio.sleep(0.01)
        await redis.ask("DEL", KEY)
        while not await redis.ask("EXISTS", KEY):
            a.hub.disconnect(user="Al", code=4403, reason="banned")
            await trio.sleep(0.05)
        assert await client.frame() == BANNED
    assert len(lines(caplog, "can't be read")) == 2


@pytest.mark.thorough
@pytest.mark.usefixtures("impatient")
async def test_a_trimmed_stream_is_noticed(
    nursery: trio.Nursery, redis: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    async with (
        network(redis.port) as between,
        node(nursery, backplane=redis.url) as a,
        node(nursery, backplane=between.url) as b,
    ):
        client = await b.open("/room/x?user=Al")
        await _told(a, redis, "Bo")
        await trio.sleep(0.3)  # until both have looked
        between.cut()
        for _ in range(3):
            await _told(a, redis, "Cy")
        await redis.ask("XTRIM", KEY, "MAXLEN", "1")
        between.heal()
        while not lines(caplog, "may have been missed: they were trimmed before they were read"):
            await trio.sleep(0.01)
        a.hub.disconnect(user="Al", code=4403, reason="banned")
        assert await client.frame() == BANNED


@pytest.mark.thorough
async def test_a_flood_of_commands_holds_nobody_up(
    nursery: trio.Nursery, redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command_work, "MAX_PENDING", 300)
    script = f"""
    for number = 1, 5000 do
      redis.call('XADD', '{KEY}', '*', 'kind', 'disconnect/1', 'by', 'flood.0.' .. number, 'body',
                 '{{"user":"' .. number .. '","code":1008,"reason":""}}')
    end
    return 1"""
    async with node(nursery, backplane=redis.url) as a, node(nursery, backplane=redis.url) as b:
        client = await b.open("/room/x?user=Al")
        assert await redis.ask("EVAL", script, "0") == 1
        for number in range(20):
            await client.send(text(str(number)))
            with trio.fail_after(PATIENCE_S):
                assert await client.frame() == seen_text(str(number))
        a.hub.disconnect(user="Al", code=4403, reason="banned")
        assert await client.frame() == BANNED, "all of the others have been carried out before it"


# Questions


@pytest.mark.usefixtures("impatient")
async def test_nodes_that_do_not_answer_in_time_are_named(
    nursery: trio.Nursery, redis: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    async with (
        network(redis.port) as between,
        node(nursery, backplane=redis.url) as a,
        node(nursery, backplane=redis.url) as b,
        node(nursery, backplane=between.url) as c,
    ):
        answering(a, b, c)
        await redis.ask("XADD", "rawws:nodes", "*", "node", "x y", "host", "forged")
        between.cut()
        gathered = await ask(a, 0.5)
        name = lines(caplog, "this is node")[-1].rpartition(" ")[2]
        assert [silent.node for silent in gathered.silent] == [name]
        assert (len(gathered.answers), gathered.problem) == (1, "")
        assert (await ask(c, 0.2)) == Gathered(problem="the backplane is away")
        between.heal()
        while (await ask(a, 0.5)).silent:
            pass


@pytest.mark.thorough
@pytest.mark.usefixtures("impatient")
async def test_a_redis_that_is_full_or_forges_answers_ends_no_question_badly(
    nursery: trio.Nursery, redis: RedisServer
) -> None:
    async with node(nursery, backplane=redis.url) as a, node(nursery, backplane=redis.url) as b:
        answering(a, b)
        own = _streams(a)._node
        for to in ("1", "2", "x", "9" * 30):
            for items in ("[]", "{", b"\xff", "[" * 20_000):
                await redis.ask("XADD", f"rawws:answers:{own}", "*", "to", to, "node", "x", "items", items, "left", "0")
        assert len((await ask(a)).answers) == 1
        await redis.ask("CONFIG", "SET", "maxmemory", "1")
        assert "Redis refuses the question" in (await ask(a)).problem
        await redis.ask("CONFIG", "SET", "maxmemory", "0")
        while (await ask(a)).problem:
            pass


async def test_answers_are_held_as_long_as_the_question(nursery: trio.Nursery, redis: RedisServer) -> None:
    async with node(nursery, backplane=redis.url) as a, node(nursery, backplane=redis.url) as b:
        answering(a, b)
        assert len((await ask(a)).answers) == 1
        await redis.ask("XADD", "rawws:nodes", "*", "node", "mute", "host", "mute:1")
        before = _streams(a)._commander.held_bytes
        async with trio.open_nursery() as asking:
            asking.start_soon(partial(ask, a, 60.0, more=60_000))
            while _streams(a)._commander.held_bytes < before + 5 * 60_000:
                await trio.sleep(0.01)
            asking.cancel_scope.cancel()
        assert _streams(a)._commander.held_bytes == before


async def test_an_answer_that_waits_to_be_sent_is_held(nursery: trio.Nursery, redis: RedisServer) -> None:
    async with node(nursery, backplane=redis.url) as a:
        before = _streams(a)._commander.held_bytes
        redis.kill()
        while not _streams(a).is_away:
            await trio.sleep(0.01)
        await ask(a, 0.01)
        _streams(a)._commander._answer(Command("count/1", {}, Author("x", 0, 1), is_question=True), ["x" * 60_000])
        assert before + 60_000 < _streams(a)._commander.held_bytes < before + 80_000


def _streams(where: Rooms) -> RedisStreams:
    assert where.hub.backplane is not None
    streams = where.hub.backplane.of("/")
    assert isinstance(streams, RedisStreams)
    return streams


async def test_a_question_of_long_ago_is_not_answered(
    nursery: trio.Nursery, redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command_reader, "STALE_MS", 50)
    asked: list[int] = []

    async def note(_: Mapping[str, Any]) -> Iterable[object]:
        asked.append(1)
        return []

    async with network(redis.port) as between, node(nursery, backplane=between.url) as b:
        b.hub.commands.answer_with("count/1", note)
        client = await b.open("/room/x?user=Al")
        between.cut()
        await redis.ask("XADD", KEY, "*", "kind", "count/1", "by", "aa.0.1", "body", "{}", "ask", "1")
        await trio.sleep(0.1)
        body = '{"user": "Al", "code": 4403, "reason": "banned"}'
        await redis.ask("XADD", KEY, "*", "kind", "disconnect/1", "by", "aa.0.2", "body", body)
        between.heal()
        assert await client.frame() == BANNED
    assert not asked


@pytest.mark.thorough
@pytest.mark.usefixtures("impatient")
async def test_an_answer_that_can_not_be_read_does_not_hold_commands_up(
    nursery: trio.Nursery, redis: RedisServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(command_reader, "LOOK_EVERY_S", 0.05)
    async with node(nursery, backplane=redis.url) as a, node(nursery, backplane=redis.url) as b:
        client = await b.open("/room/x?user=Al")
        await redis.ask("SET", f"rawws:answers:{_streams(b)._node}", "no stream")
        await redis.ask("SET", "rawws:nodes", "no stream")
        await trio.sleep(0.3)  # until the blocking read has failed
        a.hub.disconnect(user="Al", code=4403, reason="banned")
        assert await client.frame() == BANNED
        assert "Redis refuses the question" in (await ask(a)).problem
    assert outages(caplog) == []


@pytest.mark.thorough
@pytest.mark.usefixtures("impatient")
async def test_a_stream_of_commands_that_is_full_of_ids_begins_anew(
    nursery: trio.Nursery, redis: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    async with node(nursery, backplane=redis.url) as a, node(nursery, backplane=redis.url) as b:
        client = await b.open("/room/x?user=Al")
        await redis.ask("XADD", KEY, f"{(1 << 64) - 1}-{(1 << 64) - 1}", "kind", "none")
        while not lines(caplog, "is no command"):
            await trio.sleep(0.01)
        await trio.sleep(0.3)  # until both have looked again
        a.hub.disconnect(user="Al", code=4403, reason="banned")
        while not lines(caplog, "the command disconnect/1 to other nodes can't be published"):
            await trio.sleep(0.01)
        await redis.ask("DEL", KEY)
        await trio.sleep(0.3)
        a.hub.disconnect(user="Al", code=4403, reason="banned")
        assert await client.frame() == BANNED
