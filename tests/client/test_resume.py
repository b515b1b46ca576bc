"""A client that resumes at its last message after a disconnect."""

from __future__ import annotations

from collections.abc import AsyncIterator
from functools import partial

import pytest
import trio
from trio.testing import MockClock

import rawws
from rawws.hub.room import state_of
from rawws.server.server import Server
from tests.serving.machine import LOOPBACK, PATIENCE_S


async def start(nursery: trio.Nursery, hub: rawws.Hub, port: int = 0) -> Server:
    server: Server = await nursery.start(partial(rawws.serve, hub, port, host=LOOPBACK, drain=0))
    return server


async def start_saying(nursery: trio.Nursery, *messages: str | bytes) -> Server:
    """Start a server that sends these messages to every client, whatever the request."""

    async def say(ws: rawws.WebSocket) -> None:
        for message in messages:
            await ws.send(message)
        await ws.recv()

    server: Server = await nursery.start(
        partial(rawws.serve, say, 0, host=LOOPBACK, subprotocols=["rawws.id.v1"], drain=0)
    )
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
                for peer in state_of(room).peers:
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


async def test_resuming_from_an_id_that_another_process_stored(nursery: trio.Nursery) -> None:
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


async def test_a_server_without_ids_is_refused(nursery: trio.Nursery) -> None:
    async def echo(ws: rawws.WebSocket) -> None:
        async for message in ws:
            await ws.send(message)

    server = await nursery.start(partial(rawws.serve, echo, 0, host=LOOPBACK))
    with trio.fail_after(PATIENCE_S), pytest.raises(rawws.InvalidResponse, match=r"does not speak rawws\.id\.v1"):
        async with rawws.connect(f"ws://{LOOPBACK}:{server.port}/", resume=True):
            pass
    server.stop()


@pytest.mark.parametrize(
    ("first", "message"),
    [
        ('{"id": "1-2"}\nhello', """does not say where it begins: '{"id": "1-2"}"""),
        ("hello", "begins with a line of JSON, not with 'hello'"),
        (b"\xff\n", "begins with a line of JSON, not with '\ufffd'"),
        ("[]\n", "begins with a line of JSON, not with '[]'"),
        ("[" * 100_000, "begins with a line of JSON, not with '[[[["),
        ('{"at": "1-2&publish=1"}', "'1-2&publish=1' is not a message's id"),
        ('{"at": 5}', "not text but of the type int"),
        ('{"at": "1-2", "gap": 5}', "not text but of the type NoneType"),
        ('{"at": "1-2", "gap": {"since": "1-1", "after": "1 2"}}', "'1 2' is not a message's id"),
    ],
)
async def test_a_server_with_an_invalid_greeting_is_refused(
    nursery: trio.Nursery, first: str | bytes, message: str
) -> None:
    server = await start_saying(nursery, first)
    with trio.fail_after(PATIENCE_S), pytest.raises(rawws.InvalidResponse) as refused:
        async with rawws.connect(f"ws://{LOOPBACK}:{server.port}/", resume=True):
            pass
    assert message in str(refused.value)
    server.stop()


@pytest.mark.parametrize("code", [1012, None])
async def test_a_disconnect_before_the_greeting_is_retried(
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
    with pytest.raises(rawws.NoResponse, match="the server sent no greeting: closed by the server with 1"):
        await rawws.connect(url, resume=True).open()
    async for ws in rawws.connect(url, resume=True):
        assert ws.last_id == "1-1"
        break
    assert tries == 3
    server.stop()


@pytest.mark.parametrize(
    "said",
    [
        "no JSON",
        '{"id": "1-1 HTTP/1.1"}\nhello',
        '{"id": "' + "1" * 20_000 + '"}\nhello',
        '{"skipped": "x"}',
        '{"skipped": 1e999}',
        '{"skipped": -1}',
        '{"gap": {}}',
    ],
)
async def test_an_invalid_line_of_the_subprotocol_is_an_invalid_response_and_moves_no_position(
    nursery: trio.Nursery, said: str
) -> None:
    server = await start_saying(nursery, '{"at": "1-1"}', said)
    with trio.fail_after(PATIENCE_S):
        async with rawws.connect(f"ws://{LOOPBACK}:{server.port}/", resume=True) as ws:
            with pytest.raises(rawws.InvalidResponse):
                await ws.recv()
            assert (ws.last_id, ws.gap, ws.skipped) == ("1-1", None, 0)
    server.stop()


async def test_a_server_that_sends_no_greeting_is_reported(
    nursery: trio.Nursery,
    autojump_clock: MockClock,  # noqa: ARG001
) -> None:
    server = await start_saying(nursery)
    with pytest.raises(rawws.OpenTimeout, match=r"waiting for .* to say where it begins took longer than 3 s"):
        await rawws.connect(f"ws://{LOOPBACK}:{server.port}/", resume=True, open_timeout=3).open()
    server.stop()


async def test_a_gap_during_the_connection_is_reported(nursery: trio.Nursery) -> None:
    gap = '{"gap": {"since": "1-1", "after": "2-7"}}'
    server = await start_saying(nursery, '{"at": "1-1"}', gap, '{"id": "2-8"}\nnext')
    with trio.fail_after(PATIENCE_S):
        async with rawws.connect(f"ws://{LOOPBACK}:{server.port}/", resume=True) as ws:
            assert await ws.recv() == "next"
            assert ws.gap == rawws.Gap(since="1-1", after="2-7")
    server.stop()


@pytest.mark.parametrize(
    ("since", "at", "missed"),
    [
        ("a1-5", "a1-5", False),
        ("a1-5", "a1-9", True),
        ("a1-5", "b2-1", True),
        ("1700-1", "1699-3", False),  # this message of the stream is gone; the reader begins before it
        ("1700-1", "1701-0", True),
    ],
)
async def test_a_server_that_was_not_asked_begins_with_a_gap(
    nursery: trio.Nursery, since: str, at: str, missed: bool
) -> None:
    there = await start_saying(nursery, f'{{"at": "{at}"}}')
    here = await nursery.start(
        partial(
            rawws.serve,
            rawws.Hub(),
            0,
            host=LOOPBACK,
            process_request=lambda _: rawws.Response(302, b"", {"Location": f"http://{LOOPBACK}:{there.port}/"}),
        )
    )
    with trio.fail_after(PATIENCE_S):
        async with rawws.connect(f"ws://{LOOPBACK}:{here.port}/", resume=since) as ws:
            assert ws.gap == (rawws.Gap(since, at) if missed else None)
    for server in (here, there):
        server.stop()


async def test_the_starting_position_is_requested_once(nursery: trio.Nursery) -> None:
    hub = rawws.Hub(history=10)
    server = await start(nursery, hub)
    room = hub.room("/news")
    ids = []
    for number in range(3):
        room.publish(str(number))
        ids.append(room.last_id)
    url = f"ws://{LOOPBACK}:{server.port}/news?since={ids[0]}&name=me"
    got = []
    with trio.fail_after(PATIENCE_S):
        async for ws in rawws.connect(url, resume=True):
            got.append(await ws.recv())
            if len(got) == 2:
                break
            next(iter(state_of(room).peers)).transport.shutdown_write()  # the network fails
    assert got == ["1", "2"]
    assert ws.request.target == f"/news?name=me&since={ids[1]}"
    server.stop()


async def test_a_message_in_pieces_comes_without_its_id(nursery: trio.Nursery) -> None:
    hub = rawws.Hub(history=10, hello="welcome")
    server = await start(nursery, hub)
    with trio.fail_after(PATIENCE_S):
        async with rawws.connect(f"ws://{LOOPBACK}:{server.port}/news", resume=True, max_queue=None) as ws:
            assert [piece async for piece in ws.recv_streaming()] == ["welcome"]
            room = hub.room("/news")
            for message in ("one\n1", b"\x00\n" * 200_000, "three", "four"):
                room.publish(message)
            assert "".join([str(piece) async for piece in ws.recv_streaming()]) == "one\n1"
            received = b""
            async for piece in ws.recv_streaming():
                assert isinstance(piece, bytes)
                received += piece
            assert received == b"\x00\n" * 200_000
            assert await ws.recv() == "three"
            assert [piece async for piece in ws.recv_streaming()] == ["four"]
            assert ws.last_id == room.last_id
    server.stop()


async def test_a_message_in_pieces_counts_when_it_is_complete(nursery: trio.Nursery) -> None:
    part, ended = trio.Event(), trio.Event()

    async def say(ws: rawws.WebSocket) -> None:
        await ws.send('{"at": "1-1"}')
        await ws.send('{"join": {"peer": 2, "peers": 2}}')

        async def pieces() -> AsyncIterator[str]:
            yield '{"id": '
            await part.wait()
            yield '"1-2"}\nfirst'
            yield " and"
            await ended.wait()
            yield " last"

        await ws.send(pieces())
        await ws.recv()

    server = await nursery.start(partial(rawws.serve, say, 0, host=LOOPBACK, subprotocols=["rawws.id.v1"], drain=0))
    with trio.fail_after(PATIENCE_S):
        async with rawws.connect(f"ws://{LOOPBACK}:{server.port}/", resume=True) as ws:
            with trio.move_on_after(0.05):
                await anext(ws.recv_streaming())
            part.set()
            pieces = ws.recv_streaming()
            assert await anext(pieces) == "first"
            assert ws.last_id == "1-1"
            ended.set()
            assert "".join([str(piece) async for piece in pieces]) == " and last"
            assert ws.last_id == "1-2"
    server.stop()


async def test_skipped_messages_are_counted(nursery: trio.Nursery) -> None:
    server = await start_saying(nursery, '{"at": "1-1"}', '{"skipped": 3}', '{"id": "1-5"}\nnext')
    with trio.fail_after(PATIENCE_S):
        async with rawws.connect(f"ws://{LOOPBACK}:{server.port}/", resume=True) as ws:
            assert await ws.recv() == "next"
            assert (ws.skipped, ws.last_id) == (3, "1-5")
    server.stop()


def test_invalid_resume_arguments_are_refused() -> None:
    with pytest.raises(rawws.UsageError, match="leave subprotocols out"):
        rawws.connect("ws://localhost", resume=True, subprotocols=["chat"])
    with pytest.raises(rawws.UsageError, match="'five' is not a message's id"):
        rawws.connect("ws://localhost", resume="five")


async def test_a_message_to_a_read_only_room_closes_with_1008(nursery: trio.Nursery) -> None:
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
