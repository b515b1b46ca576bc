"""A new way to read a room, as an extension would add it: newline-delimited JSON.

It is one class, and one line in the table of `rawws.server.room_app`; nothing else in rawws knows of it. The response
is read over a real socket: history, live messages, gaps, a reader that is too slow, presence, heartbeats, and
/metrics.
"""

from __future__ import annotations

import base64
import json
import socket
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import pytest
import trio

import rawws
from rawws.broadcast.json_messages import as_compact_json, as_json_in_steps
from rawws.broadcast.message_ids import NumberedIds
from rawws.broadcast.stream_encodings import StreamEncoding
from rawws.hub.hub import Hub
from rawws.relay.loop import current_loop
from rawws.server import room_app
from rawws.server.metrics import MetricsApp
from rawws.server.plain_apps import HelloApp
from rawws.server.room_app import RoomApp
from rawws.server.room_posts import PublishPolicy
from rawws.server.room_readers import Stream
from rawws.wire.frames import Opcode, encode_frame
from tests.room_serving import Rooms, rooms
from tests.serving.client import Client
from tests.serving.machine import LOOPBACK, PATIENCE_S
from tests.serving.wire import get

# The extension


class Ndjson(StreamEncoding):
    """One object of JSON on each line: messages as a poll returns them, and controls by the name of their member."""

    label = "ndjson"
    content_type = "application/x-ndjson"
    heartbeat = terminator = b"\n"  # an empty line is ignored

    def encode_message(self, message_id: bytes, opcode: Opcode, payload: bytes) -> Iterable[bytes]:
        return (*as_json_in_steps(message_id, opcode, payload), b"\n")

    def encode_alone(self, opcode: Opcode, payload: bytes) -> bytes:
        if opcode is Opcode.BINARY:
            return self.encode_control({"base64": base64.b64encode(payload).decode()})
        return self.encode_control({"text": payload.decode()})

    def encode_control(self, members: Mapping[str, Any]) -> bytes:
        return as_compact_json(members) + b"\n"

    def greeting(self, hello: str, at: str, gap: Mapping[str, str] | None) -> bytes:
        return self.encode_control({"at": at} if gap is None else {"at": at, "gap": gap})


NDJSON = Ndjson()


@pytest.fixture(autouse=True)
def extended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room_app, "READERS", [Stream(NDJSON), *room_app.READERS])  # the line in the table


# Its use


class Lines:
    """The lines of a response, each an object of JSON; empty lines are counted."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.heartbeats = 0
        self._raw = b""

    @classmethod
    async def open(cls, client: Client, path: str, *lines: str) -> Lines:
        await client.send(get(path, "Accept: application/x-ndjson", *lines))
        answer = await client.answer()
        assert (answer.status, answer.headers["content-type"]) == (200, "application/x-ndjson")
        assert answer.headers["cache-control"] == "no-store"
        return cls(client)

    async def next(self) -> dict[str, Any]:
        while True:
            line, end, rest = self._raw.partition(b"\n")
            if not end:
                data = await self.client.take_some()
                assert data, "the response ends"
                self._raw += data
                continue
            self._raw = rest
            if line:
                found = json.loads(line)
                assert isinstance(found, dict)
                return found
            self.heartbeats += 1


def number_of(message: dict[str, Any]) -> int:
    return int(message["id"].rpartition("-")[2])


async def test_the_history_comes_before_new_messages(nursery: trio.Nursery) -> None:
    async with rooms(nursery, history=10) as running:
        room = running.hub.room("/room")
        ids = [(await running.publish("/room", text))["id"] for text in ("one", "two\r\nlines")]
        reader = await Lines.open(await running.connect(), "/room?last=1")
        assert await reader.next() == {"at": ids[0]}
        assert await reader.next() == {"id": ids[1], "text": "two\r\nlines"}
        room.publish_many(["drei €", b"\x00\n\xff"])
        message, binary = await reader.next(), await reader.next()
        assert message["text"] == "drei €"
        assert base64.b64decode(binary["base64"]) == b"\x00\n\xff"
        assert number_of(binary) == number_of(message) + 1 == number_of({"id": ids[1]}) + 2
        (member,) = room
        await member.send("to you alone\n")
        await member.send(b"\xfe")
        assert [await reader.next() for _ in range(2)] == [{"text": "to you alone\n"}, {"base64": "/g=="}]


async def test_a_reader_resumes_at_its_position_or_is_sent_a_gap(nursery: trio.Nursery) -> None:
    async with rooms(nursery, history=2) as running:
        ids = [(await running.publish("/room", str(number)))["id"] for number in range(4)]
        reader = await Lines.open(await running.connect(), f"/room?since={ids[2]}")
        assert [await reader.next() for _ in range(2)] == [{"at": ids[2]}, {"id": ids[3], "text": "3"}]
        late = await Lines.open(await running.connect(), f"/room?since={ids[0]}")
        assert await late.next() == {"at": ids[1], "gap": {"since": ids[0], "after": ids[1]}}
        assert [(await late.next())["text"] for _ in range(2)] == ["2", "3"]


async def test_a_replay_starts_at_the_requested_message_within_a_turn(nursery: trio.Nursery) -> None:
    async with rooms(nursery, history=10) as running:
        running.hub.room("/room").publish_many(["a", "b", "c"])
        reader = await Lines.open(await running.connect(), "/room?last=2")
        await reader.next()
        assert [(await reader.next())["text"] for _ in range(2)] == ["b", "c"]


async def test_a_large_message_is_encoded_in_steps_and_arrives_whole(nursery: trio.Nursery) -> None:
    text = "\x01ü" * 500_000
    async with rooms(nursery) as running:
        reader = await Lines.open(await running.connect(), "/room")
        await reader.next()
        running.hub.room("/room").publish(text)
        assert (await reader.next())["text"] == text
    pieces = list(NDJSON.encode_in_steps(encode_frame(Opcode.TEXT, text.encode()), NumberedIds("e").labels(1)))
    assert len(pieces) > 5
    assert max(map(len, pieces)) < 1_000_000


async def test_a_reader_that_is_too_slow_skips_messages_and_is_sent_their_number(nursery: trio.Nursery) -> None:
    async with rooms(nursery, slow="skip", max_lag_bytes=50_000) as running:
        client = await running.connect()
        client.stdlib_socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)
        reader = await Lines.open(client, "/room")
        await reader.next()
        room, total = running.hub.room("/room"), 0
        while current_loop().stats.messages_skipped < 10:
            room.publish(f"{total} " + "x" * 10_000)
            total += 1
            # The loop encodes a bounded number of bytes in a turn, and a reader does not lag for the rest.
            await trio.sleep(0)
            assert total < 10_000, "nothing is skipped"
        room.publish("last")
        got, skipped, line = [], 0, await reader.next()
        while line.get("text") != "last":
            if "skipped" in line:
                skipped += line["skipped"]
            else:
                assert line["text"].startswith(f"{number_of(line) - 1} "), "each line is a whole message"
                got.append(number_of(line))
            line = await reader.next()
        assert got == sorted(got)
        assert len(got) + skipped == total
        assert skipped == current_loop().stats.messages_skipped >= 10


async def test_a_reader_watches_who_joins_and_leaves(nursery: trio.Nursery) -> None:
    async with rooms(nursery) as running:
        reader = await Lines.open(await running.connect(), "/room?presence")
        events = await running.stream("/room?presence")
        await reader.next()
        join = (await reader.next())["join"]
        other = await Lines.open(await running.connect(), "/room")
        second = (await reader.next())["join"]
        assert (join["peers"], second["peers"]) == (2, 3)
        (event,) = await events.events(1)
        assert (event.kind, json.loads(event.data)) == ("join", second)
        other.client.hang_up()
        assert await reader.next() == {"leave": {"peer": second["peer"], "peers": 2}}


async def test_a_reader_that_waits_gets_empty_lines(nursery: trio.Nursery) -> None:
    async with rooms(nursery, ping_interval=0.1) as running:
        reader = await Lines.open(await running.connect(), "/room")
        await reader.next()
        await trio.sleep(0.5)
        running.hub.room("/room").publish("after a while")
        assert (await reader.next())["text"] == "after a while"
        assert reader.heartbeats >= 1


async def test_other_readers_are_answered_as_before(nursery: trio.Nursery) -> None:
    async with rooms(nursery, history=3) as running:
        lines = await Lines.open(await running.connect(), "/room")
        events = await running.stream("/room?json")
        published = await running.publish("/room", "for all")
        message = {"id": published["id"], "text": "for all"}
        assert [await lines.next() for _ in range(2)][1] == message
        assert [json.loads(data) for data in await events.data(1)] == [message]
        assert (await running.poll("/room?last=1"))["messages"] == [message]
        head = await running.connect()
        await head.send(get("/room", "Accept: application/x-ndjson", method="HEAD"))
        assert (await head.answer(body=False)).headers["content-type"] == "application/x-ndjson"
        assert (await running.ask(get("/room"))).body == b"hi there", "the other app"


@asynccontextmanager
async def measured(nursery: trio.Nursery) -> AsyncIterator[Rooms]:
    """A server with rooms and /metrics."""
    hub = Hub(hello="")
    app = MetricsApp(hub, RoomApp(hub, HelloApp(), PublishPolicy(is_local=True)))
    server = await nursery.start(partial(rawws.serve, hub, 0, host=LOOPBACK, http=app))
    clients: list[Client] = []
    with trio.fail_after(PATIENCE_S):
        yield Rooms(server, hub, clients)
    for client in clients:
        client.stdlib_socket.close()
    server.stop()


async def test_metrics_count_the_readers_by_how_they_read(nursery: trio.Nursery) -> None:
    async with measured(nursery) as running:
        await Lines.open(await running.connect(), "/room")
        await Lines.open(await running.connect(), "/room")
        await running.stream("/room")
        await running.open("/room")
        body = (await running.ask(get("/metrics"))).body.decode()
        for kind, count in (("ndjson", 2), ("events", 1), ("websocket", 1)):
            assert f'rawws_peers{{kind="{kind}"}} {count}.0' in body
