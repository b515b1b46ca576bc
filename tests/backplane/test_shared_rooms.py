"""Rooms that several nodes share: the promises of every backplane, Redis's and that of the workers of one machine."""

from __future__ import annotations

import json
import random
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio

import rawws
from rawws.access.grant import Grant
from rawws.broadcast.node_answers import Gathered
from rawws.errors import UsageError
from rawws.hub.hub import Hub
from tests.backplane.commands import BANNED, answering, ask, is_open, lines, name_in_query, node
from tests.backplane.ids import IDS, next_with_id, open_with_ids
from tests.local.machine import Machine
from tests.redis_server import redis_server
from tests.room_serving import Reader, Rooms, post, rooms
from tests.serving.client import Client
from tests.serving.wire import close, seen_close, seen_text, text, upgrade


@pytest.fixture(params=["redis", "local"])
async def shared(
    request: pytest.FixtureRequest,
    bounded: None,  # noqa: ARG001
    nursery: trio.Nursery,
    tmp_path: Path,
) -> AsyncIterator[Any]:
    """A backplane: its URL, or the first process of a machine."""
    if request.param == "local":
        yield Machine(nursery)
        return
    async with redis_server(tmp_path) as server:
        yield server.url


def share(hub: Hub, shared: Any) -> AbstractAsyncContextManager[object]:
    return rawws.share(hub, shared) if isinstance(shared, str) else shared(hub)


async def test_all_peers_get_the_same_messages_in_the_same_order(nursery: trio.Nursery, shared: Any) -> None:
    each = 40
    async with rooms(nursery, backplane=shared, history=500) as a, rooms(nursery, backplane=shared) as b:
        writers = [await a.open("/room/x"), await b.open("/room/x"), await b.open("/room/x")]
        named = [(await open_with_ids(node, "/room/x"))[0] for node in (a, b)]
        events = await b.stream("/room/x")

        async def write(name: str, client: Client) -> None:
            for number in range(each):
                await client.send(text(f"{name}{number}"))
                await trio.sleep(random.random() / 1000)

        async with trio.open_nursery() as writing:
            for name, client in zip("pqr", writers, strict=True):
                writing.start_soon(write, name, client)
            for number in range(each):
                await a.publish("/room/x", f"s{number}")
        total = 4 * each
        got = [await next_with_id(named[0]) for _ in range(total)]
        assert [await next_with_id(named[1]) for _ in range(total)] == got
        for writer in writers:
            assert [seen.payload for seen in await writer.frames(total)] == [payload for _, payload in got]
        streamed = await events.events(total)
        assert [(event.last_id, event.data.encode()) for event in streamed] == got
        polled = (await a.poll("/room/x?last=500"))["messages"]
        assert [(message["id"], message["text"].encode()) for message in polled] == got
        for name in "pqrs":
            assert [payload for _, payload in got if payload.startswith(name.encode())] == [
                f"{name}{number}".encode() for number in range(each)
            ]


async def test_a_client_cut_off_from_one_node_resumes_at_another(nursery: trio.Nursery, shared: Any) -> None:
    async with (
        rooms(nursery, backplane=shared, history=100) as a,
        rooms(nursery, backplane=shared, history=100) as b,
    ):
        client, begin = await open_with_ids(a, "/room/x")
        first = await a.publish("/room/x", "0")
        assert await next_with_id(client) == (first["id"], b"0")
        client.reset()
        ids = [(await a.publish("/room/x", str(number)))["id"] for number in range(1, 30)]
        again = await b.open(f"/room/x?since={first['id']}", IDS)
        assert json.loads((await again.frame()).payload) == {"at": first["id"]}
        assert [await next_with_id(again) for _ in ids] == [
            (given, str(number).encode()) for number, given in enumerate(ids, 1)
        ]
        from_the_beginning = await b.poll(f"/room/x?since={begin}")
        assert (len(from_the_beginning["messages"]), from_the_beginning["gap"]) == (30, None)
        events = await b.stream("/room/x", f"Last-Event-ID: {ids[-2]}")
        assert await events.data(1) == ["29"]


async def test_messages_published_by_a_program_reach_all_nodes(nursery: trio.Nursery, shared: Any) -> None:
    async with rooms(nursery, backplane=shared) as a, rooms(nursery, backplane=shared) as b:
        here, there = await a.open("/room/x"), await b.open("/room/x")
        a.hub.room("/room/x").publish("from code")
        b.hub.room("/room/never/opened").publish("to nobody here")
        assert (await here.frame(), await there.frame()) == (seen_text("from code"), seen_text("from code"))
        await b.hub.room("/room/x").ready()


async def test_a_handler_puts_its_connections_into_shared_rooms(nursery: trio.Nursery, shared: Any) -> None:
    hub = rawws.Hub()

    async def handle(ws: rawws.WebSocket) -> None:
        async with hub.room("/news").join(ws):
            await ws.send("joined")
            async for message in ws:
                hub.room("/news").publish(message)

    async with share(hub, shared), rooms(nursery, backplane=shared) as other:
        server = await nursery.start(rawws.serve, handle, 0)
        client = await Client.unconnected().connect(server.port)
        await client.open("/")
        assert await client.frame() == seen_text("joined")
        elsewhere = await other.open("/news")
        await client.send(text("said here"))
        assert (await client.frame(), await elsewhere.frame()) == (seen_text("said here"), seen_text("said here"))
        await other.publish("/news", "said there")
        assert await client.frame() == seen_text("said there")
        client.hang_up()
        server.stop()


async def test_exclude_sender_spares_the_sender_alone_across_nodes(nursery: trio.Nursery, shared: Any) -> None:
    async with (
        rooms(nursery, backplane=shared, exclude_sender=True) as a,
        rooms(nursery, backplane=shared, exclude_sender=True) as b,
    ):
        sender, neighbour, elsewhere = await a.open("/room/x"), await a.open("/room/x"), await b.open("/room/x")
        await sender.send(text("one"))
        assert (await neighbour.frame(), await elsewhere.frame()) == (seen_text("one"), seen_text("one"))
        await elsewhere.send(text("two"))
        assert (await neighbour.frame(), await sender.frame()) == (seen_text("two"), seen_text("two"))


async def test_at_most_max_rooms_rooms_are_followed(nursery: trio.Nursery, shared: Any) -> None:
    async with rooms(nursery, backplane=shared, max_rooms=2) as node:
        for number in range(2):
            (await node.open(f"/room/{number}")).reset()
        while node.hub.rooms:
            await trio.sleep(0.01)
        refused = await node.ask(upgrade("/room/2"))
        assert (refused.status, b"--max-rooms 2" in refused.body) == (503, True)
        await node.open("/room/1")


async def test_a_key_that_can_not_be_sent_is_refused_where_it_is_given(nursery: trio.Nursery, shared: Any) -> None:
    async with rooms(nursery, backplane=shared, slow="latest") as node:
        client = await node.open("/a")
        with pytest.raises(UsageError, match="key is sent as UTF-8"):
            node.hub.room("/a").publish("x", key="\ud800")
        node.hub.room("/a").publish("y", key="\u00e9")
        assert await client.frame() == seen_text("y")


async def test_a_key_in_a_header_of_the_post_counts_for_policy_latest(nursery: trio.Nursery, shared: Any) -> None:
    async with rooms(nursery, backplane=shared, slow="latest", key="symbol") as a:
        there = await a.open("/room/x")
        await a.publish("/room/x", "12.5", "Rawws-Key: acme")
        assert await there.frame() == seen_text("12.5")
        late = await a.open("/room/x?last=1")
        await a.publish("/room/x", '{"symbol": "acme"}')
        assert await there.frame() == await late.frame()


async def test_a_post_is_published_once_at_whichever_node_it_comes(nursery: trio.Nursery, shared: Any) -> None:
    async with rooms(nursery, backplane=shared, history=10) as a, rooms(nursery, backplane=shared, history=10) as b:
        reader = await a.open("/room/x")
        first = await a.publish("/room/x", "paid", "Idempotency-Key: k1")
        again = await b.publish("/room/x", "paid", "Idempotency-Key: k1")
        assert again["id"] == first["id"]
        assert (await b.ask(post("/room/x", b"other", "Idempotency-Key: k1"))).status == 422
        elsewhere = await b.publish("/room/y", "paid", "Idempotency-Key: k1")
        assert elsewhere["id"] != first["id"]
        last = await b.publish("/room/x", "paid twice")
        assert await reader.frames(2) == [seen_text("paid"), seen_text("paid twice")]
        polled = (await b.poll("/room/x?last=10"))["messages"]
        assert [message["id"] for message in polled] == [first["id"], last["id"]]


async def test_a_client_whose_messages_are_on_their_way_to_its_new_node(nursery: trio.Nursery, shared: Any) -> None:
    async with rooms(nursery, backplane=shared, history=50) as a, rooms(nursery, backplane=shared, history=50) as b:
        await b.open("/room/x")
        for number in range(30):
            given = await a.publish("/room/x", str(number))
            again = await b.open(f"/room/x?since={given['id']}", IDS)
            assert json.loads((await again.frame()).payload) == {"at": given["id"]}, "no gap"


async def test_an_id_that_no_node_has_given_gets_a_gap(nursery: trio.Nursery, shared: Any) -> None:
    async with rooms(nursery, backplane=shared, history=10) as a:
        await a.open("/room/x")
        await a.publish("/room/x", "now")
        for unknown in ("9999999999999-0", "abcdef01-5"):
            polled = await a.poll(f"/room/x?since={unknown}")
            assert polled["gap"]["since"] == unknown


# Commands and questions


async def test_a_disconnect_reaches_the_connections_of_a_user_at_every_node(nursery: trio.Nursery, shared: Any) -> None:
    async with node(nursery, backplane=shared) as a, node(nursery, backplane=shared) as b:
        here, there, other = [await at.open(f"/room/x?user={name}") for at, name in ((a, "Al"), (b, "Al"), (b, "Bo"))]
        elsewhere = await b.open("/room/y?user=Al")
        events = await b.connect()
        await Reader.open(events, "/room/x?user=Al")
        numbered = await b.open("/room/y?user=42")
        assert a.hub.disconnect(user="Al", code=4403, reason="banned") == 1
        for client in (here, there, elsewhere):
            assert await client.frame() == BANNED
        await events.wait_lost()
        assert a.hub.disconnect(user=42) == 0
        assert await numbered.frame() == seen_close(1008)
        assert await is_open(other, a)


async def test_a_disconnect_comes_after_the_messages_that_were_published_before(
    nursery: trio.Nursery, shared: Any
) -> None:
    async with node(nursery, backplane=shared) as a, node(nursery, backplane=shared) as b:
        clients = [await b.open(f"/room/{number}?user=Al") for number in range(20)]
        for _ in range(3):
            for number in range(20):
                a.hub.room(f"/room/{number}").publish("the last words")
        a.hub.disconnect(user="Al", code=4403, reason="banned")
        for client in clients:
            assert await client.frames(4) == [seen_text("the last words")] * 3 + [BANNED]


async def test_a_handlers_connection_is_closed_by_another_node(nursery: trio.Nursery, shared: Any) -> None:
    hub = rawws.Hub()
    ends: list[int] = []

    async def handle(ws: rawws.WebSocket) -> None:
        async with hub.room("/news").join(ws):
            await ws.send("joined")
            try:
                await ws.recv()
            except rawws.ConnectionClosed:
                ends.append(1)

    async with share(hub, shared), node(nursery, backplane=shared) as other:
        server = await nursery.start(partial(rawws.serve, handle, 0, authenticate=name_in_query))
        client = await Client.unconnected().connect(server.port)
        await client.open("/?user=Al")
        assert await client.frame() == seen_text("joined")
        assert other.hub.disconnect(user="Al", code=4403, reason="banned") == 0
        assert await client.frame() == BANNED
        await client.send(close(4403))
        client.hang_up()
        server.stop()
    assert ends == [1]


async def test_a_user_that_other_nodes_can_not_recognize_is_refused(nursery: trio.Nursery, shared: Any) -> None:
    async with node(nursery, backplane=shared) as a, node(nursery, backplane=shared) as b:
        here, there = await a.open("/room/x?user=Al"), await b.open("/room/x?user=Al")
        for user in (object(), b"Al", ["Al"], True, Grant()):
            with pytest.raises(UsageError, match="other nodes can't recognize a user that is"):
                a.hub.disconnect(user=user)
        with pytest.raises(UsageError, match="at most 4096 bytes of a command"):
            a.hub.disconnect(user="x" * 5000)
        assert await is_open(here, a)
        assert await there.frame() == seen_text("still here")
        assert a.hub.disconnect(user=rawws.User("Al", read=["*"], write=["*"])) == 1, "a User has a name"
        assert [await each.frame() for each in (here, there)] == [seen_close(1008)] * 2


@pytest.mark.thorough
async def test_an_error_of_our_own_in_a_command_ends_nothing(
    nursery: trio.Nursery, shared: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with node(nursery, backplane=shared) as a, node(nursery, backplane=shared) as b:
        client = await b.open("/room/x?user=Al")
        with monkeypatch.context() as broken:
            broken.setattr("rawws.hub.hub_commands._closes_of", lambda _: 1 / 0)
            a.hub.disconnect(user="Bo")
            while not lines(caplog, "an error in rawws itself, in a command of another node"):
                await trio.sleep(0.01)
        a.hub.disconnect(user="Al", code=4403, reason="banned")
        assert await client.frame() == BANNED


async def test_all_other_nodes_answer_a_question(nursery: trio.Nursery, shared: Any) -> None:
    async with node(nursery, backplane=shared) as a, node(nursery, backplane=shared) as b:
        assert (await ask(a, 0.2)).answers == (), "b can't answer such a question yet"
        async with node(nursery, backplane=shared) as c:
            answering(a, b, c)
            await b.open("/room/x?user=Al")
            await c.open("/room/x?user=Al")
            await c.open("/room/x?user=Bo")
            gathered = await ask(a)
            assert ({answer.items for answer in gathered.answers}, gathered.silent) == ({(1, ""), (2, "")}, ())
            assert len({answer.name.node for answer in gathered.answers}) == 2
            several = [Gathered()] * 20
            async with trio.open_nursery() as asking:
                for place in range(20):
                    asking.start_soon(_ask_into, several, place, (a, b, c)[place % 3])
            assert [len(each.answers) for each in several] == [2] * 20
            large = await ask(a, more=70_000)
            assert [(len(answer.items), answer.left_out) for answer in large.answers] == [(1, 1)] * 2
        assert len((await ask(a)).answers) == 1, "c has taken its leave"
        assert (await ask(a)).silent == ()


async def _ask_into(results: list[Gathered], place: int, where: Rooms) -> None:
    results[place] = await ask(where)
