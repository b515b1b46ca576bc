"""The end of an ASGI application's WebSocket: by either side, by an error, or by the stop of the server.

Each application is a function, and is spoken to by a raw client, through `rawws.serve` and real sockets.
"""

# ruff: noqa: ARG001 (an application takes what ASGI gives it)

from __future__ import annotations

import contextlib

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from rawws.application.spec import Message, Receive, Send
from tests.asgi_serving import MIB, errors
from tests.asgi_sockets import ACCEPT, CONNECT, Script, beside_rooms, disconnect, opened, received, sends
from tests.serving.wire import close, get, seen_close, seen_text, text, upgrade

# The end


async def test_the_application_closes_with_a_code_and_a_reason() -> None:
    events: list[Message] = []
    over = trio.Event()

    async def app(receive: Receive, send: Send) -> None:
        await receive()
        await send(ACCEPT)
        await send(sends("last words"))
        await send({"type": "websocket.close", "code": 4002, "reason": "enough"})
        events.append(await receive())
        with pytest.raises(OSError, match="the WebSocket has ended"):
            await send(sends("more"))
        over.set()

    async with beside_rooms(app) as site:
        caller = await opened(site)
        assert await caller.frames(2) == [seen_text("last words"), seen_close(4002, "enough")]
        await over.wait()  # the peer's half of the closing handshake hasn't come
        await caller.send(close(4002, "enough"))
        await caller.assert_end()
    assert events == [disconnect(4002, "enough")]


async def test_a_task_that_receives_gets_to_know_of_the_close_of_another_one() -> None:
    events: list[Message] = []
    over = trio.Event()

    async def app(receive: Receive, send: Send) -> None:
        await receive()
        await send(ACCEPT)
        async with trio.open_nursery() as nursery:

            async def read() -> None:
                while not events or events[-1]["type"] == "websocket.receive":
                    events.append(await receive())

            nursery.start_soon(read)
            await wait_all_tasks_blocked()
            await send({"type": "websocket.close", "code": 4002, "reason": "enough"})
        over.set()

    async with beside_rooms(app, close_timeout=None) as site:
        caller = await opened(site)
        await caller.send(text("hello"))
        assert await caller.frame() == seen_close(4002, "enough")
        await over.wait()  # the peer's half of the closing handshake hasn't come
    assert events == [received("hello"), disconnect(4002, "enough")]


async def test_several_tasks_may_receive() -> None:
    events: list[Message] = []

    async def app(receive: Receive, send: Send) -> None:
        await receive()
        await send(ACCEPT)

        async def read() -> None:
            events.append(await receive())
            while events[-1]["type"] == "websocket.receive":
                events.append(await receive())

        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(read)

    async with beside_rooms(app) as site:
        caller = await opened(site)
        await wait_all_tasks_blocked()
        await caller.send(text("one"))
        await wait_all_tasks_blocked()
        await caller.send(text("two") + text("three") + close(1000))
        assert await caller.frame() == seen_close(1000)
        await caller.assert_end()
        await wait_all_tasks_blocked()
    messages, ends = events[:3], events[3:]
    assert messages == [received("one"), received("two"), received("three")], "each goes to one of them, in order"
    assert ends == [disconnect(1000)] * 3


async def test_a_return_without_a_close_closes_with_1000() -> None:
    async def app(receive: Receive, send: Send) -> None:
        await send(ACCEPT)
        await send(sends("hello"))

    async with beside_rooms(app) as site:
        caller = await opened(site)
        assert await caller.frames(2) == [seen_text("hello"), seen_close(1000)]


async def test_an_application_that_fails_after_the_acceptance_is_closed_with_1011_and_logged_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def app(receive: Receive, send: Send) -> None:
        await send(ACCEPT)
        raise ZeroDivisionError

    async with beside_rooms(app) as site:
        caller = await opened(site)
        assert await caller.frame() == seen_close(1011, "internal error")
    (record,) = [record for record in caplog.records if record.exc_info]
    assert record.getMessage().endswith("! the ASGI application failed at /ws; its WebSocket is closed with 1011")


async def test_an_application_that_needs_asyncio_is_logged_in_one_line(caplog: pytest.LogCaptureFixture) -> None:
    import asyncio

    async def app(receive: Receive, send: Send) -> None:
        await send(ACCEPT)
        await asyncio.sleep(1)

    async with beside_rooms(app) as site:
        assert await (await opened(site)).frame() == seen_close(1011, "internal error")
    (record,) = errors(caplog, "rawws.hub")
    assert record.exc_info is None
    assert "; its WebSocket is closed with 1011: it needs asyncio at " in record.getMessage()


async def test_sending_to_a_client_that_has_left_raises_an_os_error(caplog: pytest.LogCaptureFixture) -> None:
    left, over = trio.Event(), trio.Event()

    async def app(receive: Receive, send: Send) -> None:
        await send(ACCEPT)
        await left.wait()
        try:
            while True:
                await send(sends(bytes(MIB)))
        except OSError as error:
            with pytest.raises(OSError, match="the WebSocket has ended"):
                await send({"type": "websocket.close"})
            raise RuntimeError("a framework's own") from error  # which is still about the client
        finally:
            over.set()

    async with beside_rooms(app) as site:
        caller = await opened(site)
        caller.reset()
        left.set()
        await over.wait()
    assert [record for record in caplog.records if record.exc_info] == []


async def test_a_client_that_leaves_while_the_application_sends_wakes_it(caplog: pytest.LogCaptureFixture) -> None:
    over = trio.Event()

    async def app(receive: Receive, send: Send) -> None:
        await send(ACCEPT)
        try:
            while True:
                await send(sends(bytes(MIB)))
        finally:
            over.set()

    async with beside_rooms(app) as site:
        caller = await opened(site)
        await wait_all_tasks_blocked()  # the client reads nothing, so the application waits
        caller.reset()
        await over.wait()
    assert [record for record in caplog.records if record.exc_info] == []


async def test_an_error_in_the_cleanup_after_the_client_has_left_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    over = trio.Event()

    async def app(receive: Receive, send: Send) -> None:
        await receive()
        await send(ACCEPT)
        await receive()
        over.set()
        raise ZeroDivisionError

    async with beside_rooms(app) as site:
        caller = await opened(site)
        caller.reset()
        await over.wait()
    (record,) = errors(caplog, "rawws.hub")
    assert record.getMessage().endswith("the ASGI application failed at /ws after the end of its WebSocket")


async def test_an_application_that_never_heeds_the_end_is_stopped() -> None:
    seen: list[str] = []
    over = trio.Event()

    async def app(receive: Receive, send: Send) -> None:
        try:
            await send(ACCEPT)
            while True:
                seen.append((await receive())["type"])
        finally:
            over.set()

    async with beside_rooms(app) as site:
        caller = await opened(site)
        caller.reset()
        await over.wait()
    assert seen[:2] == ["websocket.connect", "websocket.disconnect"]
    assert len(seen) < 100


async def test_an_application_that_swallows_each_os_error_holds_nobody_up() -> None:
    async def app(receive: Receive, send: Send) -> None:
        await send(ACCEPT)
        while True:
            with contextlib.suppress(OSError):
                await send(sends("x"))

    async with beside_rooms(app, drain=0.1) as site:
        caller = await opened(site)
        caller.reset()
        assert (await site.ask(get("/")))[0] == 500  # it is still answered


# The stop of the server


async def test_a_stop_closes_with_1001_and_the_application_has_the_drain_to_end() -> None:
    script = Script()
    async with beside_rooms(script.__call__) as site:
        caller = await opened(site)
        site.server.stop()
        assert await caller.frame() == seen_close(1001, "the server is shutting down")
        await caller.send(close(1001))
        await script.over.wait()
    assert script.events == [CONNECT, disconnect(1001)]


async def test_an_application_that_goes_on_after_the_drain_is_cancelled(autojump_clock: MockClock) -> None:
    autojump_clock.autojump_threshold = 0.05
    ended: list[float] = []

    async def app(receive: Receive, send: Send) -> None:
        await send(ACCEPT)
        try:
            await trio.sleep_forever()
        finally:
            ended.append(trio.current_time())

    async with beside_rooms(app, drain=2) as site:
        caller = await opened(site)
        began = trio.current_time()
        site.server.stop()
        await caller.frame()
        await caller.send(close(1001))
    assert [each - began for each in ended] == [pytest.approx(2, abs=0.5)]


async def test_a_stop_refuses_a_handshake_that_is_not_decided() -> None:
    asked = trio.Event()

    async def app(receive: Receive, send: Send) -> None:
        asked.set()
        await trio.sleep_forever()

    async with beside_rooms(app) as site:
        caller = await site.connect()
        await caller.send(upgrade("/ws"))
        await asked.wait()
        site.server.stop()
        answer = await caller.answer()
    assert (answer.status, answer.body) == (503, b"The server is shutting down; try again.\n")
