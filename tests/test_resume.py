"""A client that goes on where it was cut off."""

from __future__ import annotations

from functools import partial

import pytest
import trio
from trio.testing import MockClock

import rawws
from rawws.server import Server
from tests.serving import LOOPBACK, PATIENCE_S


async def start(nursery: trio.Nursery, hub: rawws.Hub, port: int = 0) -> Server:
    server: Server = await nursery.start(partial(rawws.serve, hub, port, host=LOOPBACK, drain=0))
    return server


@pytest.mark.parametrize("compression", ["deflate", None])
async def test_nothing_is_missed_and_nothing_comes_twice(nursery: trio.Nursery, compression: str | None) -> None:
    hub = rawws.Hub(history=1000, hello="welcome")
    server = await start(nursery, hub)
    room = hub.room("/news")
    got: list[str | bytes] = []
    gaps = []
    messages = [b"\x00\n\xff" if number % 3 == 0 else f"{number}\n{'x' * 2000}" for number in range(100)]

    async def publish() -> None:
        for number, message in enumerate(messages):
            room.publish(message)
            await trio.lowlevel.checkpoint()
            if number % 20 == 10:
                for peer in room.peers:
                    peer.transport.shutdown_write()  # the network fails

    with trio.fail_after(PATIENCE_S):
        async for ws in rawws.connect(
            f"ws://{LOOPBACK}:{server.port}/news", resume=True, compression=compression, ping_interval=None
        ):
            gaps.append(ws.gap)
            if len(gaps) == 1:
                nursery.start_soon(publish)
            try:
                async for message in ws:
                    if message != "welcome":
                        got.append(message)
                    if len(got) == len(messages):
                        break
            except rawws.ConnectionClosed:
                continue
            if len(got) == len(messages):
                break
    assert got == messages
    assert ws.last_id == room.last_id
    assert gaps == [None] * len(gaps)
    assert len(gaps) > 1
    server.stop()


async def test_going_on_from_an_id_that_another_process_noted(nursery: trio.Nursery) -> None:
    hub = rawws.Hub(history=3)
    server = await start(nursery, hub)
    room = hub.room("/news")
    ids = []
    for number in range(6):
        room.publish(str(number))
        ids.append(room.last_id)
    url = f"ws://{LOOPBACK}:{server.port}/news?name=me"
    with trio.fail_after(PATIENCE_S):
        async with rawws.connect(url, resume=ids[3]) as ws:
            assert [await ws.recv(), await ws.recv()] == ["4", "5"]
            assert (ws.last_id, ws.gap) == (ids[5], None)
            assert "name=me&since=" in ws.request.target
        async with rawws.connect(url, resume=ids[0]) as ws:
            assert ws.gap == rawws.Gap(since=ids[0], after=ids[2])
            assert await ws.recv() == "3"
        async with rawws.connect(url, resume="0000beef-7") as ws:
            assert ws.gap is not None
    server.stop()


async def test_a_server_that_knows_no_ids(nursery: trio.Nursery) -> None:
    async def echo(ws: rawws.WebSocket) -> None:
        async for message in ws:
            await ws.send(message)

    server = await nursery.start(partial(rawws.serve, echo, 0, host=LOOPBACK))
    with trio.fail_after(PATIENCE_S), pytest.raises(rawws.InvalidResponse, match=r"does not speak rawws\.id\.v1"):
        async with rawws.connect(f"ws://{LOOPBACK}:{server.port}/", resume=True):
            pass
    server.stop()


@pytest.mark.parametrize(
    ("first", "told"),
    [
        ('{"id": "1-2"}\nhello', "does not say where it begins: {'id': '1-2'}"),
        ("hello", "begins with a line of JSON, not with 'hello'"),
        (b"\xff\n", "begins with a line of JSON, not with '\ufffd'"),
        ("[]\n", "begins with a line of JSON, not with '[]'"),
    ],
)
async def test_a_server_whose_first_words_are_others(nursery: trio.Nursery, first: str | bytes, told: str) -> None:
    async def greet(ws: rawws.WebSocket) -> None:
        await ws.send(first)
        await ws.recv()

    start_greeting = partial(rawws.serve, greet, 0, host=LOOPBACK, subprotocols=["rawws.id.v1"], drain=0)
    server = await nursery.start(start_greeting)
    with trio.fail_after(PATIENCE_S), pytest.raises(rawws.InvalidResponse) as refused:
        async with rawws.connect(f"ws://{LOOPBACK}:{server.port}/", resume=True):
            pass
    assert told in str(refused.value)
    server.stop()


@pytest.mark.parametrize("code", [1012, None])
async def test_a_cut_in_front_of_the_first_words_is_a_cut(
    nursery: trio.Nursery,
    autojump_clock: MockClock,  # noqa: ARG001
    code: int | None,
) -> None:
    tries = 0

    async def begin_late(ws: rawws.WebSocket) -> None:
        nonlocal tries
        tries += 1
        if tries == 3:
            await ws.send('{"at": "1-1"}')
            await ws.wait_closed()
        elif code is not None:
            await ws.aclose(code)

    server = await nursery.start(
        partial(rawws.serve, begin_late, 0, host=LOOPBACK, subprotocols=["rawws.id.v1"], drain=0)
    )
    url = f"ws://{LOOPBACK}:{server.port}/"
    with pytest.raises(rawws.NoResponse, match="the server has not said where it begins: closed by the server with 1"):
        await rawws.connect(url, resume=True).open()
    async for ws in rawws.connect(url, resume=True):
        assert ws.last_id == "1-1"
        break
    assert tries == 3
    server.stop()


async def test_what_a_reader_skipped_is_counted(nursery: trio.Nursery) -> None:
    async def lose(ws: rawws.WebSocket) -> None:
        for said in ('{"at": "1-1"}', '{"skipped": 3}', '{"id": "1-5"}\nnext'):
            await ws.send(said)
        await ws.recv()

    server = await nursery.start(partial(rawws.serve, lose, 0, host=LOOPBACK, subprotocols=["rawws.id.v1"], drain=0))
    with trio.fail_after(PATIENCE_S):
        async with rawws.connect(f"ws://{LOOPBACK}:{server.port}/", resume=True) as ws:
            assert await ws.recv() == "next"
            assert (ws.skipped, ws.last_id) == (3, "1-5")
    server.stop()


def test_what_can_not_be_meant() -> None:
    with pytest.raises(rawws.UsageError, match="leave subprotocols out"):
        rawws.connect("ws://localhost", resume=True, subprotocols=["chat"])
    with pytest.raises(rawws.UsageError, match="'five' is not a message's id"):
        rawws.connect("ws://localhost", resume="five")


async def test_a_room_for_reading_only(nursery: trio.Nursery) -> None:
    hub = rawws.Hub(read_only=True)
    server = await start(nursery, hub)
    with trio.fail_after(PATIENCE_S):
        async with rawws.connect(f"ws://{LOOPBACK}:{server.port}/news") as ws:
            hub.room("/news").publish("hear me")
            assert await ws.recv() == "hear me"
            await ws.send("may I?")
            with pytest.raises(rawws.ConnectionClosed) as caught:
                await ws.recv()
            assert caught.value.closed.code == 1008
            assert caught.value.closed.reason == "this room is for reading only"
    server.stop()
