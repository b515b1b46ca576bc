"""The server's hub as applications use it on asyncio and in the threads of WSGI, over sockets."""

# ruff: noqa: ARG001 (an application takes what ASGI gives it)

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from functools import partial
from importlib.util import find_spec
from typing import Any, Literal

import pytest
import trio

import rawws
from rawws.application.spec import Receive, Scope, Send
from rawws.server.apps import HttpApp
from rawws.server.asgi import asgi, wsgi
from rawws.server.server import Server
from tests.asgi_serving import Site, answer, only_http
from tests.serving.machine import LOOPBACK, need
from tests.serving.wire import get

with contextlib.suppress(ImportError):
    import fastapi
    import flask

pytestmark = pytest.mark.usefixtures("bounded")

ROOM = "/room/x"


@contextlib.asynccontextmanager
async def serving(http: HttpApp, **settings: Any) -> AsyncIterator[tuple[Site, rawws.Hub]]:
    """Serve a hub, whose users are named in the query, with an application."""
    hub = rawws.Hub(history=100, **settings)
    async with trio.open_nursery() as nursery:
        start = partial(
            rawws.serve, hub, 0, host=LOOPBACK, http=http, authenticate=lambda request: request.query or "nobody"
        )
        server: Server = await nursery.start(start)
        site = Site(server)
        try:
            yield site, hub
        finally:
            site.hang_up()
            server.stop()


def join(site: Site, user: str = "") -> contextlib.AbstractAsyncContextManager[rawws.WebSocket]:
    return rawws.connect(f"ws://{LOOPBACK}:{site.port}{ROOM}?{user}")


async def hear(ws: rawws.WebSocket) -> list[str | bytes]:
    """Return all messages up to the server's close, which isn't 1000."""
    heard: list[str | bytes] = []
    with contextlib.suppress(rawws.ConnectionClosedError):
        async for message in ws:
            heard.append(message)
    return heard


async def test_an_asyncio_application_publishes_and_finds_rooms_and_disconnects() -> None:
    @only_http
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        hub = scope["state"]["rawws"]
        room = hub.room(ROOM)
        outcome: dict[str, Any] = {"paths": sorted(hub.rooms), "members": [member.user for member in room]}
        outcome["delivery"] = room.publish("first")  # it is on its way: nothing is known of it
        try:
            room.publish("never", wait=True)
        except rawws.UsageError as error:
            outcome["advice"] = str(error)
        ids = await asyncio.gather(*(asyncio.to_thread(room.publish, "with an id", wait=True) for _ in range(2)))
        outcome["ids"] = sorted(given.rpartition("-")[2] for given in ids)
        outcome["at once"] = hub.disconnect(user="bob")
        outcome["closed"] = await asyncio.to_thread(hub.disconnect, user="ann", wait=True)
        await answer(send, json.dumps(outcome).encode())

    async with serving(asgi(app, loop="asyncio")) as (site, hub), join(site, "ann") as ann, join(site, "bob") as bob:
        status, body = await site.ask(get("/"))
        assert (status, json.loads(body)) == (
            200,
            {
                "paths": [ROOM],
                "members": ["ann", "bob"],
                "delivery": [0, 0, 0],
                "advice": "room.publish(..., wait=True) would block the event loop; "
                "use await asyncio.to_thread(room.publish, message, wait=True)",
                "ids": ["2", "3"],
                "at once": 0,
                "closed": 1,
            },
        )
        for ws in (ann, bob):
            assert await hear(ws) == ["first", "with an id", "with an id"]
            assert ws.closed is not None
            assert ws.closed.code == 1008
        assert len(hub.room(ROOM)) == 0


async def test_an_asyncio_application_publishes_from_its_startup_to_its_shutdown() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        assert scope["type"] == "lifespan"
        room = scope["state"]["rawws"].room(ROOM)
        for kind in ("startup", "shutdown"):
            await receive()
            room.publish(kind)
            await send({"type": f"lifespan.{kind}.complete"})

    async with serving(asgi(app, loop="asyncio")) as (site, hub), join(site) as ws:
        assert hub.room(ROOM).last_id.endswith("-1")
        assert ws.closed is None
    assert hub.room(ROOM).last_id.endswith("-2")


async def test_on_message_is_not_asked_about_what_an_application_publishes() -> None:
    asked: list[str | bytes] = []

    def note(_: rawws.Sender, message: str | bytes) -> str | bytes:
        asked.append(message)
        return f"moderated {message!r}"

    @only_http
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await asyncio.sleep(0)
        scope["state"]["rawws"].room(ROOM).publish("of the application")
        await answer(send)

    async with serving(asgi(app, loop="asyncio"), on_message=note) as (site, _), join(site) as ws:
        assert await site.ask(get("/")) == (200, b"ok")
        assert await ws.recv() == "of the application"
        await ws.send("of a client")
        assert await ws.recv() == "moderated 'of a client'"
    assert asked == ["of a client"]


@pytest.mark.parametrize("loop", ["asyncio", "trio"])
async def test_fastapi_publishes_from_endpoints_of_both_kinds(loop: Literal["asyncio", "trio"]) -> None:
    need(find_spec("fastapi"), "fastapi (pip install fastapi)")
    app = fastapi.FastAPI()

    async def from_the_loop(request: fastapi.Request) -> list[int]:
        return list(request.state.rawws.room(ROOM).publish("from the loop"))

    def from_a_thread(request: fastapi.Request) -> str:
        given: str = request.state.rawws.room(ROOM).publish("from a thread", wait=True)
        return given.rpartition("-")[2]

    app.add_api_route("/loop", from_the_loop)
    app.add_api_route("/thread", from_a_thread)
    async with serving(asgi(app, loop=loop)) as (site, _), join(site) as ws:
        sent = b"[1,0,0]" if loop == "trio" else b"[0,0,0]"
        assert await site.ask(get("/loop")) == (200, sent)
        assert await site.ask(get("/thread")) == (200, b'"2"')
        assert [await ws.recv() for _ in range(2)] == ["from the loop", "from a thread"]


async def test_flask_publishes_and_finds_rooms_and_disconnects() -> None:
    need(find_spec("flask"), "flask (pip install flask)")
    app = flask.Flask("publisher")

    @app.get("/")
    def publish() -> dict[str, Any]:
        hub = flask.request.environ["rawws"]
        room = hub.room(ROOM)
        delivery, given = room.publish("first"), room.publish("second", wait=True)
        found = {"paths": sorted(hub.rooms), "members": len(room), "id": given.rpartition("-")[2]}
        return found | {"delivery": delivery, "closed": hub.disconnect(user="ann", wait=True)}

    async with serving(wsgi(app)) as (site, _), join(site, "ann") as ws:
        status, body = await site.ask(get("/"))
        expected = {"paths": [ROOM], "members": 1, "id": "2", "delivery": [0, 0, 0], "closed": 1}
        assert (status, json.loads(body)) == (200, expected)
        assert await hear(ws) == ["first", "second"]
