"""The hub as an ASGI application has it: in the state of its lifespan, and of each request."""

# ruff: noqa: ARG001 (an application takes what ASGI gives it)

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import trio

import rawws
from rawws import Hub
from rawws.application.spec import Receive, Scope, Send
from rawws.server.apps import HttpApp
from rawws.server.asgi import asgi, wsgi
from rawws.server.server import Server
from tests.asgi_serving import Site, answer, only_http
from tests.redis_server import redis_server
from tests.serving.client import Client
from tests.serving.machine import LOOPBACK, PATIENCE_S, need
from tests.serving.programs import StartProgram
from tests.serving.wire import get

with contextlib.suppress(ImportError):
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import JSONResponse
    from starlette.routing import Route

BOUNDED = pytest.mark.usefixtures("bounded")


@contextlib.asynccontextmanager
async def serving(hub: Hub, http: HttpApp, handler: Any = None, **options: Any) -> AsyncIterator[Site]:
    """Serve a hub, or a handler, with an application."""
    async with trio.open_nursery() as nursery:
        start = partial(rawws.serve, hub if handler is None else handler, 0, host=LOOPBACK, http=http, **options)
        server: Server = await nursery.start(start)
        site = Site(server)
        try:
            yield site
        finally:
            site.hang_up()
            server.stop()


def join(site: Site) -> AbstractAsyncContextManager[rawws.WebSocket]:
    return rawws.connect(f"ws://{LOOPBACK}:{site.port}/room/x")


@only_http
async def publisher(scope: Scope, receive: Receive, send: Send) -> None:
    hub = scope["state"]["rawws"]
    delivery = hub.room("/room/x").publish(scope["path"])
    await answer(send, json.dumps([delivery.sent, sorted(hub.rooms), hub.disconnect(user="nobody")]).encode())


@BOUNDED
@pytest.mark.parametrize("wraps", [False, True], ids=["alone", "behind rooms"])
async def test_an_application_publishes_in_the_rooms_beside_it(wraps: bool) -> None:
    hub = Hub()
    http = asgi(publisher)
    async with serving(hub, rawws.rooms(hub, elsewhere=http) if wraps else http) as site, join(site) as ws:
        assert await site.ask(get("/hi")) == (200, b'[1, ["/room/x"], 0]')
        assert await ws.recv() == "/hi"


@BOUNDED
async def test_an_application_beside_a_handler_has_the_first_hub_of_the_routes() -> None:
    async def handler(ws: rawws.WebSocket) -> None:
        await ws.send("of the handler")

    hub, other = Hub(), Hub()
    routes = {"/handler": handler, "/room/x": hub, "/room/y": other}
    async with serving(hub, asgi(publisher), handler, routes=routes) as site, join(site) as ws:
        assert await site.ask(get("/hi")) == (200, b'[1, ["/room/x"], 0]')
        assert await ws.recv() == "/hi"


@BOUNDED
async def test_an_application_beside_a_handler_has_the_hub_of_its_rooms_over_http() -> None:
    async def handler(ws: rawws.WebSocket) -> None:
        await ws.wait_closed()

    hub = Hub(history=1)
    async with serving(hub, rawws.rooms(hub, elsewhere=asgi(publisher)), handler) as site:
        assert await site.ask(get("/hi")) == (200, b'[0, ["/room/x"], 0]')


@BOUNDED
async def test_an_application_without_a_hub_has_none_in_its_state() -> None:
    async def handler(ws: rawws.WebSocket) -> None:
        await ws.wait_closed()

    @only_http
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await answer(send, json.dumps(scope["state"]).encode())

    async with serving(Hub(), asgi(app), handler) as site:
        assert await site.ask(get("/")) == (200, b"{}")


@BOUNDED
async def test_an_application_publishes_from_its_startup_to_its_shutdown_in_any_thread() -> None:
    hub = Hub(history=10)

    def publish(room: rawws.Room, text: str) -> None:
        thread = threading.Thread(target=room.publish, args=[text])
        thread.start()
        thread.join(PATIENCE_S)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        assert scope["type"] == "lifespan"
        room = scope["state"]["rawws"].room("/room/x")
        await receive()
        publish(room, "startup")
        await send({"type": "lifespan.startup.complete"})
        await receive()
        publish(room, "shutdown")
        await send({"type": "lifespan.shutdown.complete"})

    async with serving(hub, asgi(app)):
        pass
    assert hub.room("/room/x").last_id.endswith("-2")


@BOUNDED
async def test_starlette_keeps_the_hub_beside_the_state_of_its_own_lifespan() -> None:
    need(find_spec("starlette"), "starlette (pip install starlette)")

    @contextlib.asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[dict[str, str]]:
        yield {"greeting": "hi"}

    async def on_trio(request: Request) -> JSONResponse:
        delivery = request.state.rawws.room("/room/x").publish(request.state.greeting)
        return JSONResponse(delivery.sent)

    def in_a_thread(request: Request) -> JSONResponse:
        return JSONResponse(request.state.rawws.room("/room/x").publish("from a thread", wait=True))

    def in_asyncio(request: Request) -> JSONResponse:
        async def publish() -> str | None:
            room = request.state.rawws.room("/room/x")
            room.publish("from asyncio")
            given: str | None = await asyncio.to_thread(room.publish, "with its id", wait=True)
            return given

        return JSONResponse(asyncio.run(publish()))

    routes = [Route("/trio", on_trio), Route("/thread", in_a_thread), Route("/asyncio", in_asyncio)]
    app = Starlette(routes=routes, lifespan=lifespan)
    async with serving(Hub(), asgi(app)) as site, rawws.connect(f"ws://{LOOPBACK}:{site.port}/room/x") as ws:
        assert await site.ask(get("/trio")) == (200, b"1")
        assert (await site.ask(get("/thread")))[1].endswith(b'-2"')
        assert (await site.ask(get("/asyncio")))[1].endswith(b'-4"')
        heard = [await ws.recv() for _ in range(4)]
    assert heard == ["hi", "from a thread", "from asyncio", "with its id"]


@BOUNDED
async def test_an_application_publishes_from_a_loop_of_its_own_and_from_the_threads_of_wsgi() -> None:
    @only_http
    async def on_asyncio(scope: Scope, receive: Receive, send: Send) -> None:
        await asyncio.sleep(0)
        scope["state"]["rawws"].room("/room/x").publish("from asyncio")
        await answer(send)

    def in_a_thread(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        start_response("200 OK", [])
        return [environ["rawws"].room("/room/x").publish("from WSGI", wait=True).encode()]

    async with serving(Hub(), asgi(on_asyncio, loop="asyncio")) as site, join(site) as ws:
        assert await site.ask(get("/")) == (200, b"ok")
        assert await ws.recv() == "from asyncio"
    async with serving(Hub(), wsgi(in_a_thread)) as site, join(site) as ws:
        assert (await site.ask(get("/")))[1].endswith(b"-1")
        assert await ws.recv() == "from WSGI"


APP = """
import os
import threading


async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        for kind in ("startup", "shutdown"):
            await receive()
            await send({"type": f"lifespan.{kind}.complete"})
        return
    room = scope["state"]["rawws"].room("/room/x")

    def publish(number):
        for serial in range(1000):
            room.publish(f"{scope['path']} {number} {serial}")

    asks = scope["path"] == "/"
    threads = [threading.Thread(target=publish, args=[number]) for number in range(0 if asks else 8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()  # the loop does nothing meanwhile
    body = b"%8d" % os.getpid()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"8")]})
    await send({"type": "http.response.body", "body": body})
"""


@BOUNDED
@pytest.mark.thorough
async def test_eight_threads_of_each_of_two_workers_publish_in_order(
    start_program: StartProgram, tmp_path: Path
) -> None:
    (tmp_path / "publishing.py").write_text(APP)
    async with redis_server(tmp_path) as redis:
        flags = ["--workers", "2", "--backplane", redis.url, "--history", "100000", "--hello", "", "--max-lag", "64M"]
        program = start_program("--app", "publishing:app", *flags, directory=tmp_path)
        program.wait_for_line("2 workers listen on")
        uri = f"ws://{LOOPBACK}:{program.port}/room/x"
        heard: dict[tuple[str, str], list[int]] = {}
        clients: dict[bytes, Client] = {}  # one of each worker
        while len(clients) < 2:
            client = await program.connect()
            clients[(await client.ask(get("/"))).body] = client
        async with rawws.connect(uri, max_queue=None) as ws, trio.open_nursery() as nursery:
            for path, client in zip(("/a", "/b"), clients.values(), strict=True):
                nursery.start_soon(client.ask, get(path))
            for _ in range(2 * 8 * 1000):
                path, number, serial = str(await ws.recv()).split()
                heard.setdefault((path, number), []).append(int(serial))
    assert len(heard) == 16
    assert all(each == list(range(1000)) for each in heard.values())
