"""Helpers of the tests of the page's server side."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import trio

import rawws
from rawws.page import TRACE, About, Access, Page
from rawws.server.plain_apps import HelloApp
from rawws.server.server import Server
from rawws.tracing import Tracer
from tests.serving.client import Answer
from tests.serving.machine import LOOPBACK, PATIENCE_S
from tests.serving.programs import Program
from tests.serving.wire import get

BROWSER = "Accept: text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"
TOKEN = "secret"


async def ask(program: Program, target: str, *lines: str, method: str = "GET") -> Answer:
    """Return the answer to a request under the program's own address, on a connection of its own."""
    client = await program.connect()
    request = get(target, f"Host: {program.address}", *lines, method=method)
    answer = await client.ask(request.replace(b"Host: localhost\r\n", b""))
    client.hang_up()  # a server that stops waits for its clients
    return answer


def trace_of(server: Server) -> str:
    return f"ws://{LOOPBACK}:{server.port}{TRACE}"


def cookie_of(server: Server) -> dict[str, str]:
    return {"Cookie": f"rawws-page-{server.port}={TOKEN}"}


@asynccontextmanager
async def watched(nursery: trio.Nursery) -> AsyncIterator[tuple[Server, rawws.WebSocket, Tracer]]:
    """A hub with its page, and the page's WebSocket."""
    tracer = Tracer()
    page = Page(tracer, About(""), access=Access(TOKEN))
    start = partial(
        rawws.serve, rawws.Hub(), 0, host=LOOPBACK, http=page.before(HelloApp()), routes=page.routes, tracer=tracer
    )
    server: Server = await nursery.start(start)
    with trio.fail_after(PATIENCE_S):
        async with rawws.connect(trace_of(server), max_size=None, headers=cookie_of(server)) as trace:
            assert "about" in json.loads(await trace.recv())
            yield server, trace, tracer
    server.stop()


async def records_until(trace: rawws.WebSocket, kind: str) -> list[dict[str, Any]]:
    """Return the records that the page gets, up to and with the first of a kind."""
    records: list[dict[str, Any]] = []
    while not any(record["kind"] == kind for record in records):
        records += json.loads(await trace.recv()).get("records", [])
    return records
