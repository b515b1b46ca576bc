"""Hostile clients and slow applications of ASGI at a WebSocket.

Each application is a function, and is spoken to by a raw client, through `rawws.serve` and real sockets.
"""

# ruff: noqa: ARG001 (an application takes what ASGI gives it)

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from rawws.application.spec import Receive, Send
from rawws.relay.loop import current_loop
from rawws.wire.frames import Opcode
from tests.asgi_serving import MIB
from tests.asgi_sockets import ACCEPT, CONNECT, Script, beside_rooms, disconnect, echo, opened, sends
from tests.serving.client import Client
from tests.serving.wire import Seen, binary, close, get, ping, seen_close, seen_text, text, upgrade


async def test_an_application_that_never_decides_is_cancelled_and_the_answer_is_503(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    autojump_clock.autojump_threshold = 0.05
    cancelled = []

    async def app(receive: Receive, send: Send) -> None:
        try:
            await trio.sleep_forever()
        except trio.Cancelled:
            cancelled.append(trio.current_time() - began)
            raise

    async with beside_rooms(app, open_timeout=3) as site:
        began = trio.current_time()
        answer = await (await site.connect()).ask(upgrade("/ws"))
    assert (answer.status, answer.headers["retry-after"]) == (503, "1")
    assert answer.body == (
        b"The application did not accept or refuse this WebSocket within 3 seconds (--open-timeout).\n"
    )
    assert cancelled == [pytest.approx(3, abs=0.5)]
    assert "- the ASGI application took too long to accept or refuse /ws; it is cancelled" in caplog.text


@pytest.mark.parametrize("leave", [Client.reset, Client.hang_up, Client.end_stream])
async def test_an_application_that_decides_after_the_client_has_left_gets_to_know(
    leave: Callable[[Client], None], caplog: pytest.LogCaptureFixture
) -> None:
    asked, over = trio.Event(), trio.Event()
    seen: list[object] = []

    async def app(receive: Receive, send: Send) -> None:
        await receive()
        asked.set()
        seen.append(await receive())
        try:
            await send(ACCEPT)
        except OSError as error:
            seen.append(type(error).__name__)
            raise
        finally:
            over.set()

    async with beside_rooms(app) as site:
        caller = await site.connect()
        await caller.send(upgrade("/ws"))
        await asked.wait()
        leave(caller)
        await over.wait()
    assert seen == [disconnect(1006), "ClientDisconnected"]
    assert [record for record in caplog.records if record.exc_info] == []


async def test_an_application_that_ignores_a_client_that_has_left_holds_its_place_for_a_bounded_time(
    autojump_clock: MockClock,
) -> None:
    autojump_clock.autojump_threshold = 0.05
    calls = 0

    async def app(receive: Receive, send: Send) -> None:
        nonlocal calls
        calls += 1
        try:
            await trio.sleep_forever()
        finally:
            calls -= 1

    async with beside_rooms(app, open_timeout=3, max_connections=2) as site:
        began = trio.current_time()
        for _ in range(2):
            caller = await site.connect()
            await caller.send(upgrade("/ws"))
            await wait_all_tasks_blocked(0.01)
            caller.reset()
        assert (await site.ask(get("/")))[0] == 503, "both are still counted"
        while calls:
            await trio.sleep(0.5)
        assert trio.current_time() - began < 8
        assert (await site.ask(upgrade("/room/x")))[0] == 101


async def test_bytes_before_the_decision_are_frames_after_it() -> None:
    asked, decide = trio.Event(), trio.Event()

    async def app(receive: Receive, send: Send) -> None:
        asked.set()
        await decide.wait()
        await echo(receive, send)

    async with beside_rooms(app) as site:
        caller = await site.connect()
        await caller.send(upgrade("/ws"))
        await asked.wait()
        await caller.send(ping(b"early") + text("hello"))
        await wait_all_tasks_blocked()
        decide.set()
        assert (await caller.answer()).status == 101
        assert await caller.frames(2) == [Seen(Opcode.PONG, b"early"), seen_text("hello")]


async def test_a_flood_before_the_decision_is_cut_off(caplog: pytest.LogCaptureFixture) -> None:
    over = trio.Event()

    async def app(receive: Receive, send: Send) -> None:
        await receive()
        assert await receive() == disconnect(1006)
        over.set()

    with caplog.at_level(logging.INFO, "rawws.http"):
        async with beside_rooms(app) as site:
            caller = await site.connect()
            await caller.send(upgrade("/ws"))
            await wait_all_tasks_blocked()
            with contextlib.suppress(OSError):
                await caller.send(bytes(MIB))
            await over.wait()
    assert "the client counts as gone" in caplog.text


async def test_an_application_that_does_not_receive_slows_the_client_down() -> None:
    go_on = trio.Event()

    async def app(receive: Receive, send: Send) -> None:
        await receive()
        await send(ACCEPT)
        await go_on.wait()
        for _ in range(200):
            await receive()
        await send(sends("got them all"))

    async with beside_rooms(app) as site:
        caller = await opened(site)
        flood = trio.Event()

        async def send() -> None:
            await caller.send(binary(bytes(MIB // 4)) * 200)
            flood.set()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(send)
            await wait_all_tasks_blocked(0.05)
            assert not flood.is_set(), "50 MiB don't fit into the queue and the kernel"
            assert current_loop().memory.used_bytes() < 12 * MIB
            go_on.set()
            assert await caller.frame() == seen_text("got them all")


async def test_a_client_that_does_not_read_slows_the_application_down() -> None:
    sent = 0

    async def app(receive: Receive, send: Send) -> None:
        nonlocal sent
        await send(ACCEPT)
        for _ in range(100):
            await send(sends(bytes(MIB)))
            sent += 1

    async with beside_rooms(app) as site:
        caller = await opened(site)
        await wait_all_tasks_blocked(0.05)
        assert sent < 20
        assert current_loop().memory.used_bytes() < 8 * MIB
        assert [len(frame.payload) for frame in await caller.frames(100)] == [MIB] * 100
        assert await caller.frame() == seen_close(1000)


async def test_pings_are_answered_while_the_application_is_busy() -> None:
    accepted = trio.Event()

    async def app(receive: Receive, send: Send) -> None:
        await send(ACCEPT)
        accepted.set()
        await trio.sleep_forever()

    async with beside_rooms(app, drain=0) as site:
        caller = await opened(site)
        await accepted.wait()
        await caller.send(ping(b"are you there"))
        assert await caller.frame() == Seen(Opcode.PONG, b"are you there")


async def test_a_silent_client_is_found_by_the_server_s_pings(autojump_clock: MockClock) -> None:
    autojump_clock.autojump_threshold = 0.05
    script = Script()
    async with beside_rooms(script.__call__, ping_interval=5, ping_timeout=5, close_timeout=1) as site:
        caller = await opened(site)
        assert (await caller.frame()).opcode is Opcode.PING
        await script.over.wait()
    assert script.events == [CONNECT, disconnect(1011, "no answer to a ping within 5 s")]


async def test_the_limits_on_connections_hold_for_it() -> None:
    async with beside_rooms(echo, max_connections=2) as site:
        first, _ = [await opened(site) for _ in range(2)]
        assert (await site.ask(upgrade("/ws")))[0] == 503
        await first.send(close(1000))
        await first.frame()
        await first.assert_end()
        first.hang_up()
        await wait_all_tasks_blocked()
        await opened(site)


async def test_handshakes_without_a_decision_are_given_up_for_memory(autojump_clock: MockClock) -> None:
    autojump_clock.autojump_threshold = 0.05
    calls = 0

    async def app(receive: Receive, send: Send) -> None:
        nonlocal calls
        calls += 1
        try:
            await receive()
            await trio.sleep_forever()
        finally:
            calls -= 1

    async with beside_rooms(app, max_memory=2 * MIB, open_timeout=None) as site:
        callers = [await site.connect() for _ in range(100)]
        for caller in callers:
            await caller.send(upgrade("/ws", *[f"x-{number}: {'y' * 100}" for number in range(80)]))
        await trio.sleep(2)
        assert 0 < calls < 40
        assert current_loop().memory.used_bytes() < 2.1 * MIB
