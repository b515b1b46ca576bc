"""Applications of ASGI with WebSockets, and clients of theirs: what the tests of them share."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import trio

import rawws
from rawws.application.spec import Message, Receive, Scope, Send
from tests.asgi_serving import App, Caller, Site, only_http, serving

ACCEPT = {"type": "websocket.accept"}
CONNECT = {"type": "websocket.connect"}

Endpoint = Callable[[Receive, Send], Awaitable[None]]


def sends(content: str | bytes) -> Message:
    return {"type": "websocket.send", "text" if isinstance(content, str) else "bytes": content}


def received(content: str | bytes) -> Message:
    return {"type": "websocket.receive", "text" if isinstance(content, str) else "bytes": content}


def disconnect(code: int, reason: str = "") -> Message:
    return {"type": "websocket.disconnect", "code": code, "reason": reason}


def deny(status: int, *headers: tuple[bytes, bytes]) -> Message:
    return {"type": "websocket.http.response.start", "status": status, "headers": list(headers)}


def part(data: bytes, *, more: bool = False) -> Message:
    return {"type": "websocket.http.response.body", "body": data, "more_body": more}


def only_websockets(endpoint: Endpoint) -> App:
    @only_http
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        assert scope["type"] == "websocket"
        await endpoint(receive, send)

    return app


@contextlib.asynccontextmanager
async def beside_rooms(app: App | Endpoint, **options: Any) -> AsyncIterator[Site]:
    """Serve an application beside the rooms of a hub. A function of two arguments is one for WebSockets alone."""
    given: Any = app
    whole: App = only_websockets(given) if given.__code__.co_argcount == 2 else given
    async with serving(whole, rawws.Hub(), **options) as site:
        yield site


async def opened(site: Site, path: str = "/ws", *lines: str, then: bytes = b"") -> Caller:
    caller = await site.connect()
    await caller.open(path, *lines, then=then)
    return caller


class Script:
    """An application that accepts, and records every event up to the end."""

    def __init__(self) -> None:
        self.events: list[Message] = []
        self.over = trio.Event()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "websocket":
            raise NotImplementedError
        self.events.append(await receive())
        await send(ACCEPT)
        while self.events[-1]["type"] != "websocket.disconnect":
            self.events.append(await receive())
        self.over.set()


async def echo(receive: Receive, send: Send) -> None:
    assert await receive() == CONNECT
    await send(ACCEPT)
    while (event := await receive())["type"] == "websocket.receive":
        await send({**event, "type": "websocket.send"})
