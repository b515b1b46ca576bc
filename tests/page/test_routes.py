"""Handlers for single paths, of which the page's feed is one."""

from __future__ import annotations

from functools import partial

import pytest
import trio

import rawws
from tests.serving.machine import LOOPBACK, PATIENCE_S


async def test_a_path_can_have_its_own_handler(nursery: trio.Nursery) -> None:
    async def shout(ws: rawws.WebSocket) -> None:
        async for message in ws:
            await ws.send(str(message).upper())

    start = partial(rawws.serve, rawws.Hub(hello="hi"), 0, host=LOOPBACK, routes={"/shout": shout})
    server = await nursery.start(start)
    with trio.fail_after(PATIENCE_S):
        async with rawws.connect(f"ws://{LOOPBACK}:{server.port}/shout?really") as ws:
            await ws.send("hello")
            assert await ws.recv() == "HELLO"
        async with rawws.connect(f"ws://{LOOPBACK}:{server.port}/elsewhere") as ws:
            assert await ws.recv() == "hi"
    server.stop()


async def test_a_route_needs_a_path() -> None:
    with pytest.raises(rawws.UsageError, match=r"^'shout' can't be the path of a route"):
        await rawws.serve(rawws.Hub(), 0, host=LOOPBACK, routes={"shout": rawws.Hub()})
