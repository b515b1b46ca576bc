"""A user's program, for the type checker alone: what the public names are to somebody who has only the wheel."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from functools import partial
from typing import assert_type

import trio

import rawws
from rawws.testing import open_pair


async def handle(ws: rawws.WebSocket) -> None:
    async for message in ws:
        assert_type(message, str | bytes)
        await ws.send(message)
    assert_type(ws.closed, rawws.Closed | None)


async def answer(request: rawws.Request) -> rawws.Response | str | None:
    assert_type(request.headers, rawws.Headers)
    return rawws.Response(200, "hi") if request.path == "/" else None


async def authenticate(request: rawws.Request) -> rawws.Response | str:
    assert_type(request.headers.get("X-User"), str | None)
    assert_type(request.headers.get("X-User", 0), str | int)
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    return token if scheme == "Bearer" else rawws.Response(401, "who?")


def settings(path: str) -> rawws.RoomSettings | None:
    kept = rawws.History(messages=100)
    return rawws.RoomSettings(kept, slow=rawws.Slow.SKIP) if path.startswith("/ticker/") else None


async def main() -> None:
    hub = rawws.Hub(history=100, settings=settings)
    room = hub.room("/news")
    assert_type(room, rawws.Room)
    assert_type(room.publish("text"), rawws.Delivery)
    assert_type(room.publish(b"bytes", key="k").sent, int)
    async with trio.open_nursery() as nursery, rawws.share(hub, "redis://localhost"):
        server: rawws.Server = await nursery.start(
            partial(rawws.serve, handle, 8080, http=answer, authenticate=authenticate, routes={"/rooms": hub})
        )
        assert_type(server.port, int)
        server.stop()


async def client() -> None:
    async with rawws.connect("wss://server.example/", subprotocols=["chat.v1"]) as ws:
        assert_type(ws, rawws.WebSocket)
        assert_type(await ws.recv(), str | bytes)
        assert_type(await ws.ping(), float)
        assert_type(ws.gap, rawws.Gap | None)
    async for again in rawws.connect("wss://server.example/", resume=True):
        assert_type(again, rawws.WebSocket)
    try:
        async with open_pair() as (one, other):
            await one.send("hi")
            assert_type(other.subprotocol, str | None)
    except rawws.ConnectionClosed as error:
        assert_type(error.closed, rawws.Closed)


apps: list[Callable[..., AbstractAsyncContextManager[object]]] = [rawws.connect]
