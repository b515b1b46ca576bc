"""Callbacks in place of a handler: as a server's, as a route's, and beside a hub."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import pytest
import trio

import rawws
from rawws.errors import Cause, UsageError
from rawws.tracing import Tracer
from tests.serving.machine import LOOPBACK, PATIENCE_S


class Journal(rawws.Callbacks):
    """Echoes, and keeps the connections that were opened and closed."""

    def __init__(self) -> None:
        self.opens: list[rawws.CallbackWebSocket] = []
        self.closes: list[rawws.CallbackWebSocket] = []

    def opened(self, ws: rawws.CallbackWebSocket, /) -> None:
        self.opens.append(ws)

    def message(self, ws: rawws.CallbackWebSocket, data: str | bytes, /) -> None:
        ws.send_nowait(data)

    def closed(self, ws: rawws.CallbackWebSocket, /) -> None:
        self.closes.append(ws)


class Shouting(rawws.Callbacks):
    def message(self, ws: rawws.CallbackWebSocket, data: str | bytes, /) -> None:
        assert isinstance(data, str)
        ws.send_nowait(data.upper())


async def handler(ws: rawws.WebSocket) -> None:
    async for message in ws:
        await ws.send(f"handled {message!r}")


@asynccontextmanager
async def serving(callbacks: Any, **settings: Any) -> AsyncIterator[rawws.Server]:
    async with trio.open_nursery() as nursery:
        with trio.fail_after(PATIENCE_S):
            server = await nursery.start(partial(rawws.serve, callbacks, 0, host=LOOPBACK, **settings))
            yield server
            server.stop()


def url(server: rawws.Server, path: str = "/") -> str:
    return f"ws://{LOOPBACK}:{server.port}{path}"


async def ask(server: rawws.Server, message: str, path: str = "/") -> str | bytes:
    async with rawws.connect(url(server, path)) as ws:
        await ws.send(message)
        return await ws.recv()


async def test_a_connection_has_what_its_handshake_agreed_on() -> None:
    journal = Journal()

    def authenticate(request: rawws.Request) -> str:
        return request.query

    async with (
        serving(journal, authenticate=authenticate, subprotocols=["chat.v1"]) as server,
        rawws.connect(url(server, "/room?ann"), subprotocols=["chat.v1"]) as client,
    ):
        text = "compressible " * 100
        await client.send(text)
        assert await client.recv() == text
        (ws,) = journal.opens
        assert (ws.user, ws.path, ws.subprotocol) == ("ann", "/room", "chat.v1")
        assert ws.extensions == client.extensions
        assert ws.extensions[0].startswith("permessage-deflate")
        assert (ws.request.query, ws.response.status, ws.remote_address[0]) == ("ann", 101, LOOPBACK)
        assert ws.closed is None
        await client.aclose(4000, "bye")
    assert journal.closes == [ws]
    assert (ws.close_code, ws.close_reason) == (4000, "bye")
    assert repr(ws).startswith(f"<CallbackWebSocket #{ws.id} server /room closed closed by the client with 4000")


async def test_callbacks_handlers_and_a_hub_share_a_server() -> None:
    hub = rawws.Hub(hello="hi")
    routes = {"/echo": Journal(), "/shout": Shouting(), "/handled": handler}
    async with serving(hub, routes=routes) as server:
        assert await ask(server, "a", "/echo") == "a"
        assert await ask(server, "a", "/shout") == "A"
        assert await ask(server, "a", "/handled") == "handled 'a'"
        assert await ask(server, "a", "/room") == "hi"


@pytest.mark.parametrize("fast_lane", [True, False])
async def test_many_messages_both_ways(fast_lane: bool) -> None:
    async with serving(Journal(), fast_lane=fast_lane) as server, rawws.connect(url(server)) as client:
        messages = [f"{number} " + "x" * (number % 400) for number in range(1000)]
        async with trio.open_nursery() as nursery:

            async def send() -> None:
                for message in messages:
                    await client.send(message)

            nursery.start_soon(send)
            assert [await client.recv() for _ in messages] == messages


async def test_a_stopping_server_closes_with_1001_and_tells_the_program_before_it_returns() -> None:
    journal = Journal()
    async with trio.open_nursery() as nursery:
        server: rawws.Server = await nursery.start(partial(rawws.serve, journal, 0, host=LOOPBACK))
        clients = [await rawws.connect(url(server)).open() for _ in range(3)]
        server.stop()
        for client in clients:
            with pytest.raises(rawws.ConnectionClosedOK, match="1001"):
                await client.recv()
    assert len(journal.closes) == 3
    assert {ws.closed.cause for ws in journal.closes if ws.closed is not None} == {Cause.SHUTDOWN}


async def test_a_server_that_is_cancelled_tells_the_program_before_it_returns() -> None:
    journal = Journal()
    closes_at_return: list[int] = []

    async def serve(task_status: trio.TaskStatus[rawws.Server]) -> None:
        try:
            await rawws.serve(journal, 0, host=LOOPBACK, task_status=task_status)
        finally:
            closes_at_return.append(len(journal.closes))

    async with trio.open_nursery() as nursery:
        server: rawws.Server = await nursery.start(serve)
        client = await rawws.connect(url(server)).open()
        nursery.cancel_scope.cancel()
    assert closes_at_return == [1]
    await client.aclose()


async def test_a_lifetime_ends_connections_with_1012() -> None:
    journal = Journal()
    async with serving(journal, max_lifetime=0.1) as server, rawws.connect(url(server)) as client:
        with pytest.raises(rawws.ConnectionClosedError, match="1012"):
            await client.recv()


async def test_the_frames_are_logged_and_the_connection_is_listed(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    tracer = Tracer()
    async with serving(Journal(), tracer=tracer) as server, rawws.connect(url(server, "/seen")) as client:
        await client.send("hello")
        await client.recv()
        assert tracer.list_open is not None
        ((_, address, path, is_shown),), others = tracer.list_open(10)
        assert (address.partition(":")[0], path, is_shown, others) == (LOOPBACK, "/seen", True, 0)
    sent = [line for line in caplog.text.splitlines() if "> TEXT" in line and "'hello'" in line and "mask=none" in line]
    assert len(sent) == 1


async def test_an_object_that_cant_work_is_refused_before_the_server_listens() -> None:
    class Async:
        async def message(self, ws: object, data: object) -> None:
            """Take a message."""

    for handlers, words in (
        ({"handler": Async()}, "message of the handler can't be async"),
        ({"handler": handler, "routes": {"/a": Async()}}, "message of the handler at /a can't be async"),
        ({"handler": Journal}, "can't be the class Journal itself; give one of its objects"),
        ({"handler": object()}, "a function of one argument"),
    ):
        with pytest.raises(UsageError, match=words):
            await rawws.serve(port=0, host=LOOPBACK, **handlers)
