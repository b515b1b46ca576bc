"""Callbacks and the functions of a hub that do anything at any time, with clients that do the same."""

from __future__ import annotations

import logging
import random
import socket
import struct
from collections import Counter
from collections.abc import Callable
from functools import partial

import pytest
import trio

import rawws
from tests.serving.client import Client
from tests.serving.machine import LOOPBACK
from tests.serving.wire import binary, close, masked, ping, text, upgrade

CLIENTS = 20
CONNECTIONS_EACH = 4


class Mad(rawws.Callbacks):
    """Callbacks, and functions for a hub, that act on whatever connection they find."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.calls: Counter[str] = Counter()
        self.present: dict[rawws.CallbackWebSocket, None] = {}
        self.hub = rawws.Hub(
            slow=rng.choice(["close", "skip", "wait"]),
            max_lag_bytes=50_000,
            rooms_at="/r",
            on_message=self.on_message,
            on_join=self.on_join,
            on_leave=self.on_leave,
        )

    def act(self, ws: rawws.CallbackWebSocket | None = None) -> None:
        """Do one of the things that a program can do."""
        rng, room = self.rng, self.hub.room("/r")
        acts: list[Callable[[], object]] = [
            lambda: room.publish("y" * rng.randrange(300)),
            lambda: room.publish_many(["a", b"b"]),
            lambda: self.hub.disconnect(user="somebody"),
            self.close_members,
            lambda: 1 / (rng.random() < 0.7),
        ]
        if self.present:
            other = rng.choice(list(self.present))
            acts += [lambda: other.send_nowait("x" * rng.randrange(3000))] * 5 + [lambda: other.close(4001)]
        if ws is not None:
            acts += [lambda: ws.send_nowait("z" * rng.randrange(3000))] * 5 + [ws.close, lambda: room.leave(ws)]
            if ws.closed is None:
                acts += [lambda: room.join(ws), lambda: room.join(ws, last=3)]
        rng.choice(acts)()

    def close_members(self) -> None:
        for member in list(self.hub.room("/r"))[:2]:
            member.close(4005)

    def act_sometimes(self, ws: rawws.CallbackWebSocket | None = None) -> None:
        for _ in range(self.rng.choice((0, 0, 1, 2))):
            self.act(ws)

    def opened(self, ws: rawws.CallbackWebSocket, /) -> None:
        self.calls["opened"] += 1
        self.present[ws] = None
        self.act_sometimes(ws)

    def message(self, ws: rawws.CallbackWebSocket, data: str | bytes, /) -> None:
        assert ws in self.present
        ws.send_nowait(data)
        self.act_sometimes(ws)

    def closed(self, ws: rawws.CallbackWebSocket, /) -> None:
        self.calls["closed"] += 1
        del self.present[ws]
        assert ws.closed is not None
        assert not ws.send_nowait("late")
        self.act_sometimes()

    def on_message(self, sender: rawws.Sender, message: str | bytes) -> str | bytes | rawws.Close | None:
        assert sender.path == "/r"
        self.act_sometimes()
        return self.rng.choice([message, message, message, "changed", None, rawws.Close(4002)])

    def on_join(self, _: rawws.Member) -> None:
        self.calls["join"] += 1
        self.act_sometimes()

    def on_leave(self, _: rawws.Member) -> None:
        self.calls["leave"] += 1
        self.act_sometimes()


def some_frames(rng: random.Random) -> bytes:
    kinds: list[Callable[[], bytes]] = [
        *[lambda: text("m" * rng.randrange(200))] * 10,
        lambda: ping(b"p"),
        lambda: masked(1, b"f", fin=False) + ping() + masked(0, b"g"),
        lambda: binary(bytes(rng.randrange(70_000))),
    ]
    if rng.random() < 0.1:
        kinds += [close, lambda: b"\xff\xff"]
    return b"".join(rng.choice(kinds)() for _ in range(rng.randrange(1, 8)))


async def live(rng: random.Random, port: int, path: str) -> None:
    """Connect, send whole and partial frames, read some, and go in some way."""
    client = Client.unconnected()
    try:
        await client.connect(port)
        if rng.random() < 0.3:
            client.stdlib_socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2000)
        await client.send(upgrade(path))
        for _ in range(rng.randrange(10)):
            data = some_frames(rng)
            cut = rng.randrange(len(data))
            await client.send(data[:cut])
            await trio.lowlevel.checkpoint()
            await client.send(data[cut:])
            if rng.random() < 0.7:
                with trio.move_on_after(0.005):
                    await client.take_some()
        if rng.random() < 0.5:
            await client.send(close())
        if rng.random() < 0.3:
            client.stdlib_socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    except OSError:
        pass  # the server has closed it
    finally:
        client.hang_up()


async def live_often(rng: random.Random, port: int, path: str) -> None:
    for _ in range(CONNECTIONS_EACH):
        await live(rng, port, path)


@pytest.mark.parametrize("seed", range(4))
async def test_every_connection_is_told_of_once_and_nothing_breaks(
    bounded: None,  # noqa: ARG001
    caplog: pytest.LogCaptureFixture,
    seed: int,
) -> None:
    rng = random.Random(seed)
    mad = Mad(rng)
    async with trio.open_nursery() as nursery:
        serve = partial(rawws.serve, mad.hub, 0, host=LOOPBACK, routes={"/mad": mad}, close_timeout=1, drain=5)
        server = await nursery.start(serve)
        async with trio.open_nursery() as clients:
            for number in range(CLIENTS):
                clients.start_soon(live_often, rng, server.port, "/mad" if number % 2 else "/r")
        server.stop()
    assert mad.calls["opened"] == mad.calls["closed"] > CLIENTS
    assert mad.calls["join"] == mad.calls["leave"] > CLIENTS
    assert mad.present == {}
    failures = {record.getMessage().partition("! ")[2] for record in caplog.records if record.levelno >= logging.ERROR}
    words = ("the callback", "on_message failed", "on_join failed", "on_leave failed")
    assert failures
    assert [failure for failure in failures if not failure.startswith(words)] == []
    causes = {type(record.exc_info[1]) for record in caplog.records if record.exc_info}
    assert causes <= {ZeroDivisionError, rawws.ConnectionClosedOK, rawws.ConnectionClosedError}
