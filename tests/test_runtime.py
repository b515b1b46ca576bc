"""Calls from another thread or event loop than trio's: each raises a sentence, and its advice works."""

from __future__ import annotations

import asyncio
import functools
import re
import threading
from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import Any

import pytest
import trio

import rawws
from rawws import UsageError
from rawws.testing import open_pair
from tests.serving.machine import LOOPBACK, PATIENCE_S
from tests.serving.server import StartHub
from tests.serving.wire import seen_close, seen_text

BOUNDED = pytest.mark.usefixtures("bounded")

# A place from which a function is called; it returns the function's result, or raises its error.
Place = Callable[[Callable[[], Any]], Awaitable[Any]]


async def in_a_thread_of_trio(call: Callable[[], Any]) -> Any:
    return await trio.to_thread.run_sync(call)


async def in_a_thread_of_trio_that_is_given_up(call: Callable[[], Any]) -> Any:
    return await trio.to_thread.run_sync(call, abandon_on_cancel=True)


async def in_a_plain_thread(call: Callable[[], Any]) -> Any:
    outcome: list[Any] = []

    def run() -> None:
        try:
            outcome.append(call())
        except BaseException as error:
            outcome.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    await trio.to_thread.run_sync(thread.join, PATIENCE_S)
    if isinstance(outcome[0], BaseException):
        raise outcome[0]
    return outcome[0]


async def in_asyncio(call: Callable[[], Any]) -> Any:
    async def run() -> Any:
        found = call()
        return await found if asyncio.iscoroutine(found) else found

    return await trio.to_thread.run_sync(asyncio.run, run())


PLACES = {
    in_a_thread_of_trio: "in this thread, use trio.from_thread.run_sync(room.join, ws)",
    in_a_thread_of_trio_that_is_given_up: "in this thread, use trio.from_thread.run_sync(room.join, ws)",
    in_a_plain_thread: "in this thread, use trio.from_thread.run_sync(room.join, ws, trio_token=token), where "
    "token is what trio.lowlevel.current_trio_token() has returned in trio's thread",
    in_asyncio: "in asyncio, use await asyncio.to_thread(trio.from_thread.run_sync, room.join, ws, "
    "trio_token=token), where token is what trio.lowlevel.current_trio_token() has returned in trio's thread",
}


ADVICE = re.compile(r"use (?:await )?(.*?\))(?:, where token is what (.*\)) has returned in trio's thread)?$")


async def follow(place: Place, call: Callable[[], Any], **names: object) -> Any:
    """Make a call that can't work there, follow the advice in the same place, and return the result."""

    def refused() -> str:
        with pytest.raises(UsageError) as caught:
            call()
        return str(caught.value)

    found = ADVICE.search(await place(refused))
    assert found is not None
    advised, capture = found.groups()
    known = {"trio": trio, "asyncio": asyncio, "rawws": rawws, **names}
    if capture is not None:
        known["token"] = eval(capture, known)
    return await place(lambda: eval(advised, known))


@BOUNDED
@pytest.mark.parametrize(("place", "sentence"), PLACES.items(), ids=lambda value: getattr(value, "__name__", ""))
async def test_advice_is_for_the_place_of_the_call(place: Place, sentence: str) -> None:
    async with open_pair() as (_, server):
        room = rawws.Hub().room("/x")
        with pytest.raises(UsageError) as caught:
            await place(lambda: room.join(server))
        assert str(caught.value) == f"room.join works only in the thread in which trio runs; {sentence}"


@BOUNDED
@pytest.mark.parametrize("place", PLACES)
async def test_a_message_is_published_from_elsewhere(place: Place) -> None:
    async with open_pair() as (client, server):
        room = rawws.Hub().room("/x")
        room.join(server)
        assert await place(lambda: room.publish("hi")) == rawws.Delivery(0, 0, 0)
        assert await client.recv() == "hi"


@BOUNDED
@pytest.mark.parametrize("place", PLACES)
async def test_a_room_is_joined_and_left_from_elsewhere(place: Place) -> None:
    async with open_pair() as (_, server):
        room = rawws.Hub().room("/x")
        await follow(place, lambda: room.join(server), room=room, ws=server)
        assert len(room) == 1
        await follow(place, lambda: room.leave(server), room=room, ws=server)
        assert len(room) == 0

        def run(coroutine: Any) -> None:
            with pytest.raises(StopIteration):  # no loop runs it there, so it ends within one step
                coroutine.send(None)

        await follow(place, lambda: run(room.ready()), room=room)


@BOUNDED
@pytest.mark.parametrize("place", PLACES)
async def test_a_server_is_stopped_from_elsewhere(place: Place, nursery: trio.Nursery) -> None:
    start = functools.partial(rawws.serve, rawws.Hub(), 0, host=LOOPBACK)
    server = await nursery.start(start)
    await follow(place, server.stop, server=server)
    assert server.stopping


@BOUNDED
@pytest.mark.parametrize("place", PLACES)
async def test_a_connection_is_used_from_elsewhere(place: Place) -> None:
    async with open_pair() as (client, ws):

        def run(coroutine: Any) -> None:
            with pytest.raises(StopIteration):  # no loop runs it there, so it ends within one step
                coroutine.send(None)

        await follow(place, lambda: run(ws.send("hi")), ws=ws, message="hi")
        assert await client.recv() == "hi"
        await client.send("answer")
        with pytest.raises(UsageError, match=r"^ws\.ping works only in the thread in which trio runs"):
            await place(lambda: run(ws.ping()))
        assert await follow(place, lambda: run(client.recv()), ws=ws) == "answer"
        await follow(place, ws.begin_close, ws=ws)
        await client.wait_closed()


@BOUNDED
@pytest.mark.parametrize("place", PLACES)
async def test_a_member_is_sent_to_and_closed_from_elsewhere(place: Place, start_hub: StartHub) -> None:
    running = start_hub()
    client = running.join()
    (member,) = running.hub.room("/")

    def send() -> None:
        with pytest.raises(StopIteration):
            member.send("hi").send(None)

    await follow(place, send, member=member, message="hi")
    assert await client.frame() == seen_text("hi")
    await follow(place, member.close, member=member)
    assert (await client.frames_to_close())[-1] == seen_close(1000)


# Under asyncio


INSTEAD = re.compile(r"with (trio\.run\(.*?\)) in place of asyncio\.run, or alongside asyncio with await (.*)$")


def advice_of(error: UsageError) -> tuple[str, str]:
    """Return both calls that a sentence advises: in place of asyncio, and alongside it."""
    found = INSTEAD.search(str(error))
    assert found is not None, error
    return found[1], found[2]


async def nothing(_: rawws.WebSocket) -> None:
    pass


def test_serve_under_asyncio_raises_advice() -> None:
    with pytest.raises(UsageError, match=r"^rawws\.serve runs on trio, and asyncio runs here; start it with") as caught:
        asyncio.run(rawws.serve(nothing, 0))
    instead, alongside = advice_of(caught.value)
    ran = []

    async def serve(handler: Any, port: int) -> None:
        async with trio.open_nursery() as nursery:
            server = await nursery.start(functools.partial(rawws.serve, handler, 0, host=LOOPBACK))
            ran.append(port)
            server.stop()

    known = {"trio": trio, "asyncio": asyncio, "rawws": SimpleNamespace(serve=serve), "handler": nothing}
    eval(instead, known)

    async def main() -> None:
        await eval(alongside, known)

    asyncio.run(main())
    assert ran == [8080, 8080]


def test_connect_under_asyncio_raises_advice() -> None:
    async def connect() -> None:
        async with rawws.connect(f"ws://{LOOPBACK}:1/"):
            pass

    with pytest.raises(UsageError, match=r"^rawws\.connect runs on trio, and asyncio runs here") as caught:
        asyncio.run(connect())
    ran = []

    async def main() -> None:
        with pytest.raises(OSError, match="refused"):
            await connect()
        ran.append(True)

    instead, alongside = advice_of(caught.value)
    eval(instead, {"trio": trio, "main": main})

    async def run() -> None:
        await eval(alongside, {"trio": trio, "asyncio": asyncio, "main": main})

    asyncio.run(run())
    assert ran == [True, True]


@pytest.mark.parametrize("runner", [asyncio.run, lambda coroutine: coroutine.send(None)], ids=["asyncio", "no loop"])
def test_a_function_that_needs_trio_raises_advice_without_it(runner: Callable[[Any], Any]) -> None:
    async def share() -> None:
        async with rawws.share(rawws.Hub(), "redis://localhost"):
            pass

    async def pair() -> None:
        async with open_pair():
            pass

    async def attach() -> None:
        async with rawws.attach(None, None):  # type: ignore[arg-type]
            pass

    for function in (share, pair, attach):
        with pytest.raises(UsageError, match="runs on trio, "):
            runner(function())


# An awaited plain function, and connect without async


@BOUNDED
async def test_an_awaited_plain_function_raises_advice(nursery: trio.Nursery) -> None:
    server = await nursery.start(functools.partial(rawws.serve, nothing, 0, host=LOOPBACK))
    room = rawws.Hub().room("/x")
    async with open_pair() as (_, ws):
        room.join(ws)
        (member,) = room
        calls: list[tuple[Callable[[], Any], str]] = [
            (
                server.stop,
                "server.stop() only begins to stop; rawws.serve returns when all is closed; leave out the await",
            ),
            (lambda: room.publish("x"), "room.publish(message) doesn't wait for anybody; leave out the await"),
            (lambda: room.join(ws), "room.join(ws) doesn't wait; use async with room.join(ws), or leave out the await"),
            (lambda: room.leave(ws), "room.leave(ws) has nothing to wait for; leave out the await"),
            (member.close, "member.close() doesn't wait for the end; leave out the await"),
            (ws.begin_close, "ws.begin_close() doesn't wait, and ws.aclose() does; leave out the await"),
        ]
        for call, sentence in calls:
            with pytest.raises(UsageError) as caught:
                await call()
            assert str(caught.value) == sentence


@BOUNDED
async def test_a_hook_may_be_a_lambda_that_stops_the_server(nursery: trio.Nursery) -> None:
    def stop(_: rawws.Request) -> None:
        return server.stop()  # type: ignore[no-any-return]

    server = await nursery.start(functools.partial(rawws.serve, nothing, 0, host=LOOPBACK, process_request=stop))
    async with rawws.connect(f"ws://{LOOPBACK}:{server.port}/") as ws:
        await ws.wait_closed()
    assert server.stopping


def test_connect_without_async_raises_advice() -> None:
    connector: Any = rawws.connect("ws://localhost:1/")

    def use_with() -> None:
        with connector:
            pass

    async def use_await() -> None:
        await connector

    for misuse in (use_with, lambda: list(connector), lambda: trio.run(use_await), lambda: asyncio.run(use_await())):
        with pytest.raises(UsageError, match=r"^rawws.connect is for async with and async for; use async with rawws"):
            misuse()
    with pytest.raises(AttributeError, match=r"returns no WebSocket, so it has no 'send'; use async with"):
        connector.send("x")
    assert not hasattr(connector, "recv")


@BOUNDED
async def test_connect_without_a_block_opens_one(nursery: trio.Nursery) -> None:
    async def greet(ws: rawws.WebSocket) -> None:
        await ws.send("hi")

    server = await nursery.start(functools.partial(rawws.serve, greet, 0, host=LOOPBACK))
    ws = await rawws.connect(f"ws://{LOOPBACK}:{server.port}/").open()
    assert await ws.recv() == "hi"
    await ws.aclose()


def test_connect_takes_settings_of_tls_and_nothing_else_for_them() -> None:
    yes: Any = True
    with pytest.raises(UsageError, match=r"ssl can't be True; give an ssl\.SSLContext, or None"):
        rawws.connect("wss://localhost:1/", ssl=yes)
