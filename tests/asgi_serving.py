"""Applications that are one function, a server for them, and a client that reads any response."""

# ruff: noqa: ARG001 (an application takes what ASGI gives it)

from __future__ import annotations

import contextlib
import logging
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from typing import Any

import pytest
import trio

import rawws
from rawws.application.spec import Message, Receive, Scope, Send
from rawws.server.asgi import AsgiApp, asgi
from rawws.server.server import Server
from rawws.websocket import WebSocket
from tests.serving.client import Client
from tests.serving.machine import LOOPBACK, PATIENCE_S

App = Callable[[Scope, Receive, Send], Awaitable[None]]

MIB = 1 << 20


async def echo(websocket: WebSocket) -> None:
    async for message in websocket:
        await websocket.send(message)


class Caller(Client):
    """A raw client that can read a response whose length isn't given."""

    async def until(self, mark: bytes) -> bytes:
        """Return all bytes up to a mark, including it."""
        while (end := self._unread.find(mark)) < 0:
            assert await self._receive_more(), f"the stream ends before {mark!r}: {bytes(self._unread)!r}"
        return self._take(end + len(mark))

    async def to_end(self) -> bytes:
        """Return all bytes up to the end of the stream."""
        while await self._receive_more():
            pass
        return self._take(len(self._unread))

    async def receive_some(self) -> int:
        """Read the bytes that are there, and return their number."""
        await self._receive_more()
        return len(self._take(len(self._unread)))


class Site:
    """A running server, and the clients that the test has connected to it."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.port = server.port
        self._clients: list[Client] = []

    async def connect(self) -> Caller:
        caller = Caller(socket.socket())
        self._clients.append(caller)
        await caller.connect(self.port)
        return caller

    async def ask(self, request: bytes) -> tuple[int, bytes]:
        """Send a request on a connection of its own, and return the answer's status and body."""
        answer = await (await self.connect()).ask(request)
        return answer.status, answer.body

    @property
    def url(self) -> str:
        return f"http://{LOOPBACK}:{self.port}"

    def hang_up(self) -> None:
        for client in self._clients:
            client.hang_up()


@contextlib.asynccontextmanager
async def serving(
    app: App | AsgiApp, handler: Callable[[WebSocket], Awaitable[None]] | rawws.Hub = echo, **options: Any
) -> AsyncIterator[Site]:
    """Serve an application and a handler of WebSockets, and stop the server in order."""
    http = app if isinstance(app, AsgiApp) else asgi(app)
    with trio.fail_after(PATIENCE_S):
        async with trio.open_nursery() as nursery:
            server = await nursery.start(partial(rawws.serve, handler, 0, host=LOOPBACK, http=http, **options))
            site = Site(server)
            try:
                yield site
            finally:
                site.hang_up()
                server.stop()


def errors(caplog: pytest.LogCaptureFixture, logger: str = "rawws.http") -> list[logging.LogRecord]:
    """Return the lines of a logger that would alert an operator."""
    return [record for record in caplog.records if record.name == logger and record.levelno >= logging.ERROR]


def the_error(caplog: pytest.LogCaptureFixture) -> BaseException:
    """Return the exception of the one traceback in the log."""
    (record,) = errors(caplog)
    assert record.exc_info is not None
    assert record.exc_info[1] is not None
    return record.exc_info[1]


def only_http(app: App) -> App:
    """Give an application a lifespan that does nothing."""

    async def wrapped(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "lifespan":
            return await app(scope, receive, send)
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        return await send({"type": "lifespan.shutdown.complete"})

    return wrapped


def start(status: int = 200, *headers: tuple[bytes, bytes]) -> Message:
    return {"type": "http.response.start", "status": status, "headers": headers}


def body(data: bytes = b"", *, more: bool = False) -> Message:
    return {"type": "http.response.body", "body": data, "more_body": more}


def length(size: int) -> tuple[bytes, bytes]:
    return b"content-length", str(size).encode()


async def answer(send: Send, data: bytes = b"ok") -> None:
    await send(start(200, length(len(data))))
    await send(body(data))


@only_http
async def says_ok(scope: Scope, receive: Receive, send: Send) -> None:
    await answer(send)


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)
