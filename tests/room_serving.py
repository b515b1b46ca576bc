"""Helpers for the tests of rooms: a hub behind a server, its clients, event streams and POSTs."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import trio

import rawws
from rawws.hub.hub import Hub
from rawws.hub.shards import Shards
from rawws.server.plain_apps import HelloApp
from rawws.server.room_app import RoomApp
from rawws.server.room_posts import PublishPolicy
from rawws.server.server import Server
from tests.serving.client import Client
from tests.serving.machine import LOOPBACK, PATIENCE_S
from tests.serving.wire import get, upgrade
from tests.sse import Event, read_events


def post(path: str, body: bytes, *lines: str, content_type: str = "text/plain") -> bytes:
    length = f"Content-Length: {len(body)}"
    return get(path, f"Content-Type: {content_type}", length, *lines, method="POST") + body


class Reader:
    """An event stream, read as it arrives."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._raw = b""
        self.last_id = ""

    @classmethod
    async def open(cls, client: Client, path: str, *lines: str) -> Reader:
        await client.send(get(path, "Accept: text/event-stream", *lines))
        answer = await client.answer()
        assert (answer.status, answer.headers["content-type"]) == (200, "text/event-stream"), answer
        assert answer.headers["cache-control"] == "no-store"
        return cls(client)

    async def events(self, count: int) -> list[Event]:
        """Return the next ``count`` events."""
        while True:
            end = self._raw.rfind(b"\n\n") + 2
            found = read_events(self._raw[:end]) if end > 1 else []
            if len(found) >= count:
                assert len(found) == count, found
                self._raw = self._raw[end:]
                self.last_id = found[-1].last_id
                return found
            data = await self._client.take_some()
            assert data, "the stream ends"
            self._raw += data

    async def data(self, count: int) -> list[str]:
        return [event.data for event in await self.events(count)]


class Rooms:
    """A hub behind a server, and clients of it."""

    def __init__(self, server: Server, hub: Hub, clients: list[Client]) -> None:
        self.server = server
        self.hub = hub
        self._clients = clients

    async def connect(self) -> Client:
        client = Client.unconnected()
        self._clients.append(client)
        return await client.connect(self.server.port)

    async def stream(self, path: str, *lines: str) -> Reader:
        return await Reader.open(await self.connect(), path, *lines)

    async def open(self, path: str, *lines: str) -> Client:
        client = await self.connect()
        await client.send(upgrade(path, *lines))
        answer = await client.answer()
        assert answer.status == 101, answer
        return client

    async def ask(self, raw: bytes) -> Any:
        client = await self.connect()
        return await client.ask(raw)

    async def publish(self, path: str, body: str | bytes, *lines: str, content_type: str = "text/plain") -> Any:
        data = body.encode() if isinstance(body, str) else body
        answer = await self.ask(post(path, data, *lines, content_type=content_type))
        assert answer.status == 202, answer
        return json.loads(answer.body)

    async def poll(self, target: str) -> Any:
        answer = await self.ask(get(target))
        assert answer.status == 200, answer
        assert answer.headers["cache-control"] == "no-store"
        return json.loads(answer.body)


@asynccontextmanager
async def rooms(
    nursery: trio.Nursery, *, policy: PublishPolicy | None = None, backplane: Any = (), **settings: Any
) -> AsyncIterator[Rooms]:
    """A server with rooms, shared through the backplane if one is given: by one or several URLs, or as an object.

    A function is called with the hub, and returns a context manager that shares it.
    """
    serve_settings: dict[str, Any] = {
        name: settings.pop(name)
        for name in ("access", "authenticate", "ping_interval", "ping_timeout", "max_connections")
        if name in settings
    }
    serve_settings.setdefault("ping_interval", None)  # on a slow machine, a ping would come between two messages
    hub = Hub(**settings)
    shared: Any = nullcontext()
    if isinstance(backplane, str | tuple):
        urls = (backplane,) if isinstance(backplane, str) else backplane
        shared = rawws.share(hub, *urls) if urls else shared
    elif callable(backplane):
        shared = backplane(hub)
    else:
        hub.share_through(Shards({"": backplane}))
    async with shared, _serving(nursery, hub, policy, serve_settings) as running:
        yield running


@asynccontextmanager
async def _serving(
    nursery: trio.Nursery, hub: Hub, policy: PublishPolicy | None, serve_settings: dict[str, Any]
) -> AsyncIterator[Rooms]:
    app = RoomApp(hub, HelloApp(["POST"]), policy or PublishPolicy(is_local=True))
    start = partial(rawws.serve, hub, 0, host=LOOPBACK, http=app, **serve_settings)
    server = await nursery.start(start)
    clients: list[Client] = []
    try:
        with trio.fail_after(PATIENCE_S):
            yield Rooms(server, hub, clients)
    finally:
        for client in clients:
            client.stdlib_socket.close()
    server.stop()


def on_one_store(nursery: trio.Nursery, store: Path, **defaults: Any) -> Callable[..., Any]:
    """Return a function like `rooms`, whose servers have the same store, one after the other."""

    @asynccontextmanager
    async def start(**settings: Any) -> AsyncIterator[Rooms]:
        async with rooms(nursery, store=store, **defaults, **settings) as running:
            yield running
        while running.hub.stored is not None:  # the server ends in the nursery
            await trio.sleep(0.001)

    return start
