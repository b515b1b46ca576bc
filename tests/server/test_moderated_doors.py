"""A hub's ``on_message`` at the doors of HTTP and on two nodes, and ``on_join`` with readers of events and polls."""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

import rawws
from rawws.access.shared_token import SharedToken
from rawws.server.room_posts import PublishPolicy
from tests.hub.test_regranting import WRITER, Changing
from tests.redis_server import RedisServer, redis_server
from tests.room_serving import Rooms, post, rooms
from tests.serving.machine import PATIENCE_S
from tests.serving.wire import seen_text, text


class Judge:
    """An ``on_message`` that answers as it is told to, and keeps all that it was given."""

    def __init__(self, **answers: Any) -> None:
        self.answers = answers
        self.given: list[tuple[rawws.Sender, str | bytes]] = []

    def __call__(self, sender: rawws.Sender, message: str | bytes) -> Any:
        self.given.append((sender, message))
        if message == "fail":
            raise ZeroDivisionError
        return self.answers.get(message, message) if isinstance(message, str) else message


def judge() -> Judge:
    return Judge(drop=None, close=rawws.Close(4000, "no shouting"), bare=rawws.Close(), change="changed", pack=b"\xff")


async def contents(running: Rooms, path: str = "/r") -> list[str]:
    """Return the messages that a room keeps."""
    return [each.get("text", each.get("base64")) for each in (await running.poll(f"{path}?last=20"))["messages"]]


@pytest.fixture
async def redis(bounded: None, tmp_path: Path) -> AsyncIterator[RedisServer]:  # noqa: ARG001
    async with redis_server(tmp_path) as server:
        yield server


async def test_a_post_is_asked_about_with_its_sender(nursery: trio.Nursery) -> None:
    asked = judge()

    def authenticate(request: rawws.Request) -> str:
        return request.headers.get("X-User") or "nobody"

    async with rooms(nursery, on_message=asked, authenticate=authenticate) as running:
        client = await running.open("/r", "X-User: ann")
        await client.send(text("by WebSocket"))
        assert await client.frame() == seen_text("by WebSocket")
        await running.publish("/r", "by POST", "X-User: bob")
        assert await client.frame() == seen_text("by POST")
        (by_websocket, _), (by_post, _) = asked.given
        assert (by_websocket.user, by_websocket.path, by_websocket.request) == ("ann", "/r", None)
        assert by_websocket.member in running.hub.room("/r")
        assert (by_post.user, by_post.path, by_post.member) == ("bob", "/r", None)
        assert by_post.request is not None
        assert by_post.request.headers["Content-Type"] == "text/plain"
        assert [sender.remote_address[0] for sender, _ in asked.given] == ["127.0.0.1"] * 2


@pytest.mark.parametrize(
    ("body", "status", "code", "words"),
    [
        ("drop", 403, "message_dropped", "The server's program doesn't publish this message."),
        ("close", 403, "message_refused", "The server's program refuses this message: no shouting"),
        ("bare", 403, "message_refused", "refuses this message: it would close a WebSocket with 1008"),
        ("fail", 500, "internal_error", "The server failed to decide about this message."),
    ],
)
async def test_a_post_that_isnt_published_is_answered_with_the_reason(
    nursery: trio.Nursery, caplog: pytest.LogCaptureFixture, body: str, status: int, code: str, words: str
) -> None:
    caplog.set_level(logging.INFO)
    async with rooms(nursery, on_message=judge(), history=20) as running:
        answer = await running.ask(post("/r", body.encode()))
        assert answer.status == status
        assert words in answer.body.decode()
        assert f"refused with {status} ({code})" in caplog.text
        assert caplog.text.count("Traceback") == (code == "internal_error")
        await running.publish("/r", "next")
        assert await contents(running) == ["next"]


async def test_a_post_is_published_as_it_was_changed(nursery: trio.Nursery) -> None:
    async with rooms(nursery, on_message=judge(), history=20) as running:
        for body in ("change", "pack", "same"):
            await running.publish("/r", body)
        assert await contents(running) == ["changed", "/w==", "same"]


async def test_a_post_that_is_repeated_is_asked_about_once_and_known_by_what_was_sent(nursery: trio.Nursery) -> None:
    asked = judge()
    async with rooms(nursery, on_message=asked, history=20) as running:
        first = await running.publish("/r", "change", "Idempotency-Key: k")
        assert await running.publish("/r", "change", "Idempotency-Key: k") == first
        assert (await running.ask(post("/r", b"changed", "Idempotency-Key: k"))).status == 422
        assert len(asked.given) == 1
        assert (await running.ask(post("/r", b"drop", "Idempotency-Key: d"))).status == 403
        assert (await running.ask(post("/r", b"drop", "Idempotency-Key: d"))).status == 403
        assert await contents(running) == ["changed"]


async def test_a_post_without_the_token_is_not_asked_about(nursery: trio.Nursery) -> None:
    asked = judge()
    async with rooms(nursery, on_message=asked, policy=PublishPolicy(SharedToken("secret"))) as running:
        assert (await running.ask(post("/r", b"x"))).status == 401
        assert (await running.ask(post("/r", b"\xff"))).status == 401
        assert asked.given == []


async def test_a_post_whose_grant_was_withdrawn_while_publishers_were_held_back_is_not_asked_about(
    nursery: trio.Nursery,
) -> None:
    asked, source = judge(), Changing(WRITER, None)
    settings: dict[str, Any] = {"slow": "wait", "max_lag_bytes": 4000, "hello": "hello"}
    async with rooms(nursery, on_message=asked, access=source, **settings) as running:
        slow, client = await running.open("/r"), await running.connect()
        room = running.hub.room("/r")
        assert await slow.frame() == seen_text("hello")
        while not room.is_held:
            room.publish("x" * 100_000)
        await client.send(post("/r", b"held back"))
        await wait_all_tasks_blocked()
        source.is_changed = True
        while room.is_held:
            await slow.frame()
        assert (await client.answer()).status == 401
        assert asked.given == []


async def test_a_room_for_reading_only_asks_about_its_posts(nursery: trio.Nursery) -> None:
    async with rooms(nursery, on_message=judge(), history=20, read_only=True) as running:
        await running.publish("/r", "change")
        assert (await running.ask(post("/r", b"drop"))).status == 403
        assert await contents(running) == ["changed"]


async def test_with_a_backplane_the_node_of_the_sender_asks_once(nursery: trio.Nursery, redis: RedisServer) -> None:
    at_a, at_b = judge(), Judge(changed="changed twice")
    async with (
        rooms(nursery, backplane=redis.url, on_message=at_a, history=20) as a,
        rooms(nursery, backplane=redis.url, on_message=at_b, history=20) as b,
    ):
        one, other = await a.open("/r"), await b.open("/r")
        await one.send(text("change") + text("drop") + text("last"))
        assert await other.frames(2) == await one.frames(2) == [seen_text("changed"), seen_text("last")]
        await a.publish("/r", "change", "Idempotency-Key: k")
        await a.publish("/r", "change", "Idempotency-Key: k")
        assert (await a.ask(post("/r", b"drop"))).status == 403
        assert (await a.ask(post("/r", b"changed", "Idempotency-Key: k"))).status == 422
        a.hub.room("/r").publish("drop")
        assert await other.frames(2) == [seen_text("changed"), seen_text("drop")]
        assert at_b.given == []


async def test_readers_of_events_join_and_leave_and_polls_do_not(nursery: trio.Nursery) -> None:
    joins: list[rawws.Member] = []
    leaves: list[rawws.Member] = []
    async with rooms(nursery, on_join=joins.append, on_leave=leaves.append, history=5) as running:
        await running.poll("/r?last=1")
        await running.publish("/r", "x")
        assert joins == []
        reader = await running.stream("/r")
        client = await running.open("/r")
        assert [member.path for member in joins] == ["/r", "/r"]
        reader._client.hang_up()
        client.hang_up()
        with trio.fail_after(PATIENCE_S):
            while len(leaves) < 2:
                await trio.sleep(0.01)
        assert set(leaves) == set(joins)


async def test_members_that_a_handler_puts_into_a_room_are_its_own_affair(nursery: trio.Nursery) -> None:
    joins: list[rawws.Member] = []
    hub = rawws.Hub(on_join=joins.append, on_message=judge())

    async def handler(ws: rawws.WebSocket) -> None:
        async with hub.room("/r").join(ws) as room:
            async for message in ws:
                room.publish(json.dumps(message))

    server: rawws.Server = await nursery.start(lambda task_status: rawws.serve(handler, 0, task_status=task_status))
    async with rawws.connect(f"ws://127.0.0.1:{server.port}/r") as ws:
        await ws.send("drop")
        assert await ws.recv() == '"drop"'
    assert joins == []
    server.stop()
