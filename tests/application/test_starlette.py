"""Starlette on asyncio: what its users rely on, and what goes wrong first where a server doesn't heed it."""

# ruff: noqa: ARG001 (an endpoint takes a request)

from __future__ import annotations

import asyncio
import contextlib
import math
import statistics
import threading
import time
from collections.abc import AsyncIterator
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import trio

import rawws
from rawws.server.asgi import AsgiApp, asgi
from tests.asgi_serving import chunk, errors, serving
from tests.serving.machine import PATIENCE_S, need, pace
from tests.serving.programs import StartProgram
from tests.serving.wire import get

# Each test needs it, and says so.
with contextlib.suppress(ImportError):
    from starlette.applications import Starlette
    from starlette.background import BackgroundTask
    from starlette.middleware.base import BaseHTTPMiddleware
    from starlette.requests import Request
    from starlette.responses import PlainTextResponse, Response, StreamingResponse
    from starlette.routing import Route


@pytest.fixture(autouse=True)
def starlette() -> None:
    need(find_spec("starlette"), "starlette")


def site_of(layers: int = 0, /, **endpoints: Any) -> AsgiApp:
    """Return an application with these endpoints, and layers of middleware, which have task groups."""

    class Passes(BaseHTTPMiddleware):
        async def dispatch(self, request: Request, call_next: Any) -> Response:
            response: Response = await call_next(request)
            return response

    routes = [Route(f"/{name}", endpoint, methods=["GET", "POST"]) for name, endpoint in endpoints.items()]
    app = Starlette(routes=routes)
    for _ in range(layers):
        app.add_middleware(Passes)
    return asgi(app, loop="asyncio")


async def wait_for(event: threading.Event) -> None:
    assert await trio.to_thread.run_sync(event.wait, 30)


LAYERS = pytest.mark.parametrize("layers", [0, 2])


@LAYERS
async def test_a_stream_stops_when_its_client_leaves(layers: int, caplog: pytest.LogCaptureFixture) -> None:
    stopped = threading.Event()

    async def ticks() -> AsyncIterator[bytes]:
        try:
            while True:
                await asyncio.sleep(0.001)
                yield b"tick"
        finally:
            stopped.set()

    async def stream(request: Request) -> Response:
        return StreamingResponse(ticks())

    async with serving(site_of(layers, stream=stream)) as site:
        client = await site.connect()
        await client.send(get("/stream"))
        await client.until(b"tick")
        client.hang_up()
        await wait_for(stopped)
    assert errors(caplog) == []


@LAYERS
@pytest.mark.parametrize("rest_s", [0.05, math.inf], ids=["ticks", "silent"])
async def test_an_open_event_stream_does_not_hold_up_the_end(
    layers: int, rest_s: float, caplog: pytest.LogCaptureFixture
) -> None:
    stopped = threading.Event()

    async def ticks() -> AsyncIterator[bytes]:
        try:
            yield b"data: tick\n\n"
            while True:
                await asyncio.sleep(rest_s)
                yield b"data: tick\n\n"
        finally:
            stopped.set()

    async def stream(request: Request) -> Response:
        return StreamingResponse(ticks(), media_type="text/event-stream")

    async with serving(site_of(layers, stream=stream), drain=10 * PATIENCE_S) as site:
        client = await site.connect()
        await client.send(get("/stream"))
        await client.until(b"tick")
        site.server.stop()
        assert (await client.to_end()).endswith(b"\n\n\r\n0\r\n\r\n")
    await wait_for(stopped)
    assert errors(caplog) == []


async def test_a_long_poll_is_notified_of_the_end(caplog: pytest.LogCaptureFixture) -> None:
    async def poll(request: Request) -> Response:
        while (await request.receive())["type"] != "http.disconnect":
            pass
        return PlainTextResponse("nothing new")

    async with serving(site_of(poll=poll), drain=1) as site:
        client = await site.connect()
        await client.send(get("/poll"))
        await trio.sleep(0.1)
        site.server.stop()
        assert (await client.answer()).body == b"nothing new"
    assert errors(caplog) == []


async def test_is_disconnected_works(caplog: pytest.LogCaptureFixture) -> None:
    answers: list[bool] = []
    asked, stopped = threading.Event(), threading.Event()

    async def watch(request: Request) -> Response:
        await request.body()
        while not answers or not answers[-1]:
            answers.append(await request.is_disconnected())
            asked.set()
            await asyncio.sleep(0.001)
        stopped.set()
        return PlainTextResponse("too late")

    async with serving(site_of(watch=watch)) as site:
        client = await site.connect()
        await client.send(get("/watch"))
        await wait_for(asked)
        client.hang_up()
        await wait_for(stopped)
    assert answers[0] is False
    assert errors(caplog) == []


async def test_a_client_that_leaves_inside_its_upload_is_no_error(caplog: pytest.LogCaptureFixture) -> None:
    stopped = threading.Event()

    async def read(request: Request) -> Response:
        try:
            return Response(await request.body())
        finally:
            stopped.set()

    async with serving(site_of(read=read)) as site:
        client = await site.connect()
        await client.send(get("/read", "Content-Length: 10", method="POST") + b"half")
        await trio.sleep(0.05)
        client.hang_up()
        await wait_for(stopped)
    assert errors(caplog) == []


@LAYERS
async def test_an_upload_is_streamed_back(layers: int) -> None:
    async def echo_back(request: Request) -> Response:
        return StreamingResponse(request.stream())

    async with serving(site_of(layers, echo=echo_back)) as site:
        client = await site.connect()
        await client.send(get("/echo", "Transfer-Encoding: chunked", method="POST"))
        for number in range(20):
            await client.send(chunk(b"%03d" % number * 1000))
            await client.until(b"%03d\r\n" % number)
        await client.send(chunk(b""))
        await client.until(b"0\r\n\r\n")


async def test_background_tasks_run_after_the_response() -> None:
    release, done = threading.Event(), threading.Event()

    async def later() -> None:
        await asyncio.to_thread(release.wait, 30)
        done.set()

    async def respond(request: Request) -> Response:
        return PlainTextResponse("ok", background=BackgroundTask(later))

    async with serving(site_of(respond=respond)) as site:
        client = await site.connect()
        for _ in range(2):  # the next request on the connection doesn't wait for it either
            assert (await client.ask(get("/respond"))).body == b"ok"
        assert not done.is_set()
        release.set()
        await wait_for(done)


# A route that blocks the application's loop

BLOCKING = """
import time

from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route


async def block(request):
    time.sleep(3)
    return PlainTextResponse("done")


app = Starlette(routes=[Route("/block", block)])
"""


BLOCKING_WSGI = """
import time


def app(environ, start_response):
    time.sleep(3)
    start_response("200 OK", [])
    return [b"done"]
"""


@pytest.mark.thorough
@pytest.mark.parametrize("source", [BLOCKING, BLOCKING_WSGI], ids=["asyncio", "WSGI"])
def test_a_hundred_peers_notice_nothing_of_a_route_that_blocks(
    source: str, tmp_path: Path, start_program: StartProgram
) -> None:
    """The age of each message at each peer, while a route sleeps for three seconds, and while none does."""
    (tmp_path / "blocking.py").write_text(source, "utf-8")
    program = start_program("--app", "blocking:app", "--hello", "", directory=tmp_path)
    free_s, blocked_s = (trio.run(partial(measure_ages, program.port, path)) for path in ("/room/none", "/block"))
    p99 = [statistics.quantiles(ages, n=100)[98] for ages in (free_s, blocked_s)]
    print(f"p99 of {len(free_s)} and {len(blocked_s)} messages: {p99[0] * 1000:.1f} ms, {p99[1] * 1000:.1f} ms")
    assert p99[1] < 3 * p99[0] + 0.1 * pace()


async def measure_ages(port: int, path: str) -> list[float]:
    """Return the ages in seconds of the messages that 100 peers get in three seconds, while a path is requested."""
    ages: list[float] = []
    uri = f"ws://127.0.0.1:{port}/room/ages"
    async with trio.open_nursery() as nursery, rawws.connect(uri) as publisher:
        for _ in range(100):
            await nursery.start(receive_ages, uri, ages)
        began = trio.current_time()
        with trio.CancelScope() as asking:
            nursery.start_soon(request, port, path)
            while trio.current_time() - began < 3.2:
                await publisher.send(repr(time.monotonic()))
                await trio.sleep(0.05)
            asking.cancel()
        nursery.cancel_scope.cancel()
    return ages


async def receive_ages(uri: str, ages: list[float], task_status: trio.TaskStatus[None]) -> None:
    async with rawws.connect(uri) as peer:
        task_status.started()
        async for message in peer:
            ages.append(time.monotonic() - float(message))


async def request(port: int, path: str) -> None:
    stream = await trio.open_tcp_stream("127.0.0.1", port)
    async with stream:
        await stream.send_all(get(path))
        assert await stream.receive_some()
