"""A user's program, for the type checker alone: the public names as an installed wheel has them."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from functools import partial
from typing import Any, assert_type

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


async def greet(room: rawws.Room) -> None:
    for member in room:
        assert_type(member.websocket, rawws.WebSocket | None)
        assert_type(member.remote_address, tuple[str, int] | str)
        if isinstance(member.user, str) and member in room:
            await member.send(f"hello {member.user}")
        member.close(4000, "enough")


async def chat(ws: rawws.WebSocket) -> None:
    async with rawws.Hub().room(ws.path).join(ws, last=10) as room:
        async for message in ws:
            sent, _, _ = room.publish(f"{ws.user}: {message!r}")
            assert_type(sent, int)
    if ws.closed is not None and ws.closed.rcvd is not None:
        assert_type(ws.closed.rcvd.code, int)
        assert_type(ws.closed.cause, rawws.Cause)


def from_a_thread(room: rawws.Room) -> None:
    assert_type(room.publish("hi"), rawws.Delivery)
    assert_type(room.publish(b"hi", wait=True), str | None)
    published = rawws.publish("http://localhost:8080/room", "hi", token="secret", idempotency_key="order-17")
    assert_type(published.id, str | None)


async def from_elsewhere() -> rawws.Published:
    try:
        return await rawws.publish_async("http://localhost:8080/room", b"hi")
    except rawws.PublishRefused as error:
        assert_type(error.status, int)
        raise


def moderate(sender: rawws.Sender, message: str | bytes) -> str | bytes | rawws.Close | None:
    assert_type(sender.request, rawws.Request | None)
    if sender.member is None or not message:
        return None
    return f"{sender.user}: {message!r}" if sender.member.is_behind else rawws.Close(4000, "enough")


def leave(member: rawws.Member) -> None:
    assert_type(member.id, int)


class Game(rawws.Callbacks):
    def message(self, ws: rawws.CallbackWebSocket, data: str | bytes) -> None:
        assert_type(ws.send_nowait(data), bool)
        assert_type(ws.closed, rawws.Closed | None)
        rawws.Hub().room("/").join(ws)
        ws.close(4000, "enough")


async def application(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200 if await receive() else scope["status"]})


async def main() -> None:
    hub = rawws.Hub(history=100, settings=settings, on_message=moderate, on_leave=leave)
    room = hub.room("/news")
    assert_type(room, rawws.Room)
    assert_type(room.publish("text"), rawws.Delivery)
    assert_type(room.publish(b"bytes", key="k").sent, int)
    app = rawws.rooms(hub, elsewhere=rawws.asgi(application), publish_token=None, origins=None)
    async with trio.open_nursery() as nursery, rawws.share(hub, "redis://localhost"):
        server: rawws.Server = await nursery.start(
            partial(rawws.serve, handle, 8080, http=answer, authenticate=authenticate, routes={"/rooms": hub})
        )
        await nursery.start(partial(rawws.serve, hub, 0, http=app, hosts=None, subprotocols=None))
        await nursery.start(partial(rawws.serve, Game(), 0, routes={"/game": Game(), "/rooms": hub}))
        await nursery.start(partial(rawws.serve, chat, 0, http=rawws.asgi(application)))
        assert_type(server.port, int)
        server.stop()


async def client() -> None:
    async with rawws.connect("wss://server.example/", subprotocols=["chat.v1"]) as ws:
        assert_type(ws, rawws.WebSocket)
        assert_type(await ws.recv(), str | bytes)
        assert_type(await ws.ping(), float)
        assert_type(ws.gap, rawws.Gap | None)
        async for piece in ws.recv_streaming():
            assert_type(piece, str | bytes)
    async with rawws.connect("ws://server.example/", headers={"Authorization": "Bearer x"}, subprotocols=None) as ws:
        await ws.aclose(1000, None)
    async for again in rawws.connect("wss://server.example/", resume=True):
        assert_type(again, rawws.WebSocket)
    try:
        async with open_pair() as (one, other):
            await one.send("hi")
            assert_type(other.subprotocol, str | None)
    except rawws.ConnectionClosed as error:
        assert_type(error.closed, rawws.Closed)


apps: list[Callable[..., AbstractAsyncContextManager[object]]] = [rawws.connect]
