"""The ways into a room as a client tries them, and what each user gets there: statuses, or the code of a close."""

from __future__ import annotations

import http.client
import json
import ssl
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace

import trio

import rawws
from rawws.client.connect import ClientConnector
from tests.serving.machine import PATIENCE_S

# The tokens of the users that the table is about, which each source knows in its own way.
WRITER, READER, POSTER, DENIED = "writer-1", "reader-1", "poster-1", "denied-1"


@dataclass(frozen=True)
class Site:
    """A server with a room, and how it is reached. Others help with some ways in at the node ``helper``."""

    port: int
    room: str = "/room/x"
    tls: ssl.SSLContext | None = None
    compression: str | None = None
    helper: int | None = None  # a port; None is the same node

    @property
    def other(self) -> Site:
        """The helper, whose helper is this site."""
        return self if self.helper is None else replace(self, port=self.helper, helper=self.port)

    async def ask(self, token: str | None, query: str = "", *, body: str | None = None, **fields: str) -> Reply:
        """Send a request for the room over HTTP, and return the answer; of a stream only its head."""
        return await trio.to_thread.run_sync(self._ask, token, query, body, fields)

    def _open(self) -> http.client.HTTPConnection:
        if self.tls is None:
            return http.client.HTTPConnection("localhost", self.port, timeout=PATIENCE_S)
        return http.client.HTTPSConnection("localhost", self.port, timeout=PATIENCE_S, context=self.tls)

    def _ask(self, token: str | None, query: str, body: str | None, fields: Mapping[str, str]) -> Reply:
        connection = self._open()
        try:
            headers = {"Content-Type": "text/plain", **fields, **_bearer(token)}
            connection.request("GET" if body is None else "POST", self.room + query, body, headers)
            answer = connection.getresponse()
            is_stream = answer.headers["Content-Type"] == "text/event-stream"
            return Reply(answer.status, dict(answer.headers), b"" if is_stream else answer.read())
        finally:
            connection.close()

    def connect(self, token: str | None, query: str = "", *subprotocols: str) -> ClientConnector:
        scheme = "ws" if self.tls is None else "wss"
        return rawws.connect(
            f"{scheme}://localhost:{self.port}{self.room}{query}",
            ssl=self.tls,
            headers=_bearer(token),
            subprotocols=subprotocols or None,
            compression=self.compression,
            proxy=None,
        )

    async def publish(self, message: str) -> str:
        """Publish as the user who may do everything, at the helper, and return the id."""
        reply = await self.other.ask(WRITER, body=message)
        assert reply.status == 202, reply
        return str(json.loads(reply.body)["id"])


@dataclass(frozen=True)
class Reply:
    status: int
    headers: Mapping[str, str]
    body: bytes


def _bearer(token: str | None) -> dict[str, str]:
    return {} if token is None else {"Authorization": f"Bearer {token}"}


# The ways in. Each returns a status of HTTP or the code of a close, and 101 only if the messages come too.


async def read_websocket(site: Site, token: str | None) -> int:
    async with site.connect(token) as ws:
        await site.publish("to readers")
        await _up_to(ws, "to readers")
    return 101


async def write_websocket(site: Site, token: str | None) -> int:
    async with site.other.connect(WRITER) as witness, site.connect(token) as ws:
        await ws.send("from a peer")
        try:
            await _up_to(ws, "from a peer")  # a room sends it to its sender too
        except rawws.ConnectionClosed as error:
            await site.publish("after the close")
            assert not any("from a peer" in each for each in await _up_to(witness, "after the close"))
            return error.closed.code
        await _up_to(witness, "from a peer")
    return 101


async def read_with_ids(site: Site, token: str | None) -> int:
    async with site.connect(token, "", "rawws.id.v1") as ws:
        await site.publish("to readers with ids")
        await _up_to(ws, "to readers with ids")
    return 101


async def write_with_ids(site: Site, token: str | None) -> int:
    async with site.other.connect(WRITER, "", "rawws.id.v1") as witness, site.connect(token, "", "rawws.id.v1") as ws:
        await ws.send("from a peer")
        try:
            await _up_to(ws, "from a peer")
        except rawws.ConnectionClosed as error:
            await site.publish("after the close")
            assert not any("from a peer" in each for each in await _up_to(witness, "after the close"))
            return error.closed.code
        await _up_to(witness, "from a peer")
    return 101


async def events(site: Site, token: str | None) -> int:
    return (await site.ask(token, accept="text/event-stream")).status


async def poll(site: Site, token: str | None) -> int:
    await site.publish("kept")
    reply = await site.ask(token, "?last=1")
    while site.helper is not None and reply.status == 200 and b"kept" not in reply.body:
        reply = await site.ask(token, "?last=1")  # a node may answer before it has read a message of another
    assert (b"kept" in reply.body) is (reply.status == 200)
    return reply.status


async def long_poll(site: Site, token: str | None) -> int:
    since = await site.publish("before")
    replies: list[Reply] = []

    async def ask() -> None:
        replies.append(await site.ask(token, f"?since={since}&wait=20"))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask)
        await site.publish("meanwhile")
    (reply,) = replies
    assert (b"meanwhile" in reply.body) is (reply.status == 200)
    return reply.status


async def post(site: Site, token: str | None) -> int:
    reply = await site.ask(token, body="posted")
    if reply.status == 202:
        may_read = (await site.ask(token, "?last=1")).status == 200
        assert ("peers" in json.loads(reply.body)) is may_read, "the number of peers is for readers"
    return reply.status


async def peers(site: Site, token: str | None) -> int:
    reply = await site.ask(token, "?peers")
    assert (b"peers" in reply.body) is (reply.status == 200)
    return reply.status


async def presence(site: Site, token: str | None) -> int:
    async with site.connect(token, "?presence", "rawws.id.v1") as ws, site.connect(WRITER):
        await _up_to(ws, "join")
    return 101


async def resume(site: Site, token: str | None) -> int:
    since = await site.publish("seen before")
    await site.publish("missed")
    async with site.connect(token, f"?since={since}", "rawws.id.v1") as ws:
        await _up_to(ws, "missed")
    return 101


async def _up_to(ws: rawws.WebSocket, part: str) -> list[str]:
    """Return all messages up to the first with a part, which may follow some of other ways in at another node."""
    messages = [str(await ws.recv())]
    while part not in messages[-1]:
        messages.append(str(await ws.recv()))
    return messages


Way = Callable[[Site, str | None], Awaitable[int]]
WAYS: tuple[Way, ...] = (
    *(read_websocket, write_websocket, read_with_ids, write_with_ids),
    *(events, poll, long_poll, post, peers, presence, resume),
)  # fmt: skip

# By the user's token, the outcome of each way, in their order.
TABLE: dict[str | None, tuple[int, ...]] = {
    WRITER: (101, 101, 101, 101, 200, 200, 200, 202, 200, 101, 101),
    READER: (101, 1008, 101, 1008, 200, 200, 200, 403, 200, 101, 101),
    POSTER: (403, 403, 403, 403, 403, 403, 403, 202, 403, 403, 403),
    DENIED: (403,) * len(WAYS),
    None: (401,) * len(WAYS),
    "unknown-1": (401,) * len(WAYS),
}


async def try_all(site: Site, table: Mapping[str | None, tuple[int, ...]] = TABLE) -> None:
    """Assert the outcome of every way for every user."""
    seen = {token: tuple([await _outcome(way, site, token) for way in WAYS]) for token in table}
    assert seen == dict(table)


async def _outcome(way: Way, site: Site, token: str | None) -> int:
    with trio.fail_after(PATIENCE_S):
        try:
            return await way(site, token)
        except rawws.InvalidStatus as error:
            return error.response.status
