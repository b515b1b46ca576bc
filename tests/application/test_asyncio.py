"""Applications on asyncio, in a thread of their own, over real sockets."""

# ruff: noqa: ARG001 (an application takes what ASGI gives it)

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import logging
import math
import re
import threading
import time
from functools import partial
from typing import Any

import anyio
import pytest
import sniffio
import trio

import rawws
from rawws.application import asyncio_loop, asyncio_side, choice, handover
from rawws.application.spec import ClientDisconnected, Message, Receive, Scope, Send
from rawws.errors import RawwsError, UsageError
from rawws.relay.loop import current_loop
from rawws.server import asgi_lifespan
from rawws.server.asgi import AsgiApp, asgi
from tests.asgi_serving import (
    MIB,
    Site,
    answer,
    body,
    chunk,
    echo,
    errors,
    length,
    only_http,
    serving,
    start,
    the_error,
)
from tests.serving.machine import LOOPBACK, PATIENCE_S
from tests.serving.wire import get


def on_asyncio(app: Any, **options: Any) -> AsgiApp:
    return asgi(app, loop="asyncio", **options)


@only_http
async def says_where(scope: Scope, receive: Receive, send: Send) -> None:
    asyncio.get_running_loop()
    await answer(send, f"{sniffio.current_async_library()} in {threading.current_thread().name}".encode())


async def test_the_application_has_a_loop_and_a_thread_of_its_own() -> None:
    async with serving(on_asyncio(says_where)) as site:
        assert await site.ask(get("/")) == (200, b"asyncio in rawws-application")
        assert sniffio.current_async_library() == "trio"


def test_anyio_knows_both_loops_also_where_it_has_started_the_program() -> None:
    @only_http
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await anyio.sleep(0)
        async with anyio.create_task_group() as group:
            group.start_soon(anyio.sleep, 0)
        asyncio.current_task()
        await answer(send, sniffio.current_async_library().encode())

    async def main() -> None:
        async with serving(on_asyncio(app)) as site:
            assert await site.ask(get("/")) == (200, b"asyncio")
            await anyio.sleep(0)
            assert sniffio.current_async_library() == "trio"

    anyio.run(main, backend="trio")


async def test_uvloop_runs_the_application_if_it_is_asked_for() -> None:
    pytest.importorskip("uvloop")

    @only_http
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await asyncio.sleep(0)
        await answer(send, type(asyncio.get_running_loop()).__module__.encode())

    async with serving(asgi(app, loop="uvloop")) as site:
        assert await site.ask(get("/")) == (200, b"uvloop")


async def test_a_small_response_crosses_once_each_way(monkeypatch: pytest.MonkeyPatch) -> None:
    """A crossing costs two switches of threads."""
    crossings: list[int] = []
    cross = handover.Handover._make_calls

    def counted(self: handover.Handover) -> None:
        crossings.append(len(self._calls))
        cross(self)

    monkeypatch.setattr(handover.Handover, "_make_calls", counted)
    async with serving(on_asyncio(says_where, lifespan="off")) as site:
        for _ in range(3):
            crossings.clear()
            assert (await site.ask(get("/")))[0] == 200
            with trio.fail_after(PATIENCE_S):
                while len(crossings) < 2:
                    await trio.sleep(0)
            assert crossings == [1, 3]  # the call; and the head, the body and the end


async def test_a_response_is_taken_before_the_tasks_of_the_turn_that_it_has_begun(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """So the task that waits for it runs in this turn, and not in the next one."""
    server_thread = threading.current_thread()
    tasks: list[trio.lowlevel.Task | None] = []
    cross = handover.Handover._make_calls

    def noted(self: handover.Handover) -> None:
        if threading.current_thread() is server_thread:
            try:
                tasks.append(trio.lowlevel.current_task())
            except RuntimeError:  # no task has its turn yet
                tasks.append(None)
        cross(self)

    monkeypatch.setattr(handover.Handover, "_make_calls", noted)
    async with serving(on_asyncio(says_where, lifespan="off")) as site:
        for _ in range(3):
            assert (await site.ask(get("/")))[0] == 200
    assert tasks
    assert tasks == [None] * len(tasks)


async def test_an_event_stream_that_is_not_read_is_cancelled_when_the_server_stops(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("rawws.server.asgi_conversation._FAREWELL_S", 0.05)
    ended = threading.Event()

    @only_http
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send(start(200, (b"content-type", b"text/event-stream")))
        try:
            await send(body(b"x" * 50 * MIB, more=True))  # in the same step as the head
            await asyncio.sleep(math.inf)
        finally:
            ended.set()

    async with serving(on_asyncio(app, lifespan="off"), drain=600, close_timeout=600) as site:
        client = await site.connect()
        await client.send(get("/"))
        await client.until(b"x")
        site.server.stop()
        assert await trio.to_thread.run_sync(ended.wait, PATIENCE_S)
        assert not (await client.to_end()).endswith(b"0\r\n\r\n"), "it ends inside a chunk"
    assert errors(caplog) == []


# Context variables


number: contextvars.ContextVar[int] = contextvars.ContextVar("number", default=0)


async def test_context_variables_reach_the_application_and_each_request_has_its_own() -> None:
    seen: list[int] = []

    @only_http
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(number.get())
        number.set(number.get() + 100)
        await asyncio.sleep(0.001)
        await answer(send, b"%d" % number.get())

    def set_number(request: rawws.Request) -> None:
        number.set(int((request.path or "").lstrip("/") or 0))

    async with serving(on_asyncio(app), process_request=set_number) as site:
        for each in (1, 2):
            assert await site.ask(get(f"/{each}")) == (200, b"%d" % (each + 100))
    assert seen == [1, 2]
    assert number.get() == 0


# Bodies


@only_http
async def sends_back(scope: Scope, receive: Receive, send: Send) -> None:
    await send(start())
    more = True
    while more:
        event = await receive()
        more = event["more_body"]
        await send(body(event["body"], more=more))


async def test_an_upload_comes_back_piece_by_piece() -> None:
    async with serving(on_asyncio(sends_back)) as site:
        client = await site.connect()
        await client.send(get("/", "Transfer-Encoding: chunked", method="POST"))
        for each in range(100):
            await client.send(chunk(b"%03d" % each * 1000))
            await client.until(b"%03d\r\n" % each)
        await client.send(chunk(b""))
        await client.until(b"0\r\n\r\n")


async def send_until_stuck(client: Any, piece: bytes) -> int:
    """Send until nothing is taken for a while; return the number of bytes."""
    sent = 0
    while True:
        with trio.move_on_after(0.5):
            await client.send(piece)
            sent += len(piece)
            assert sent < 200 * MIB
            continue
        return sent


async def test_an_application_that_does_not_read_holds_its_client_back() -> None:
    go_on = threading.Event()

    @only_http
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await asyncio.to_thread(go_on.wait)
        await answer(send)

    async with serving(on_asyncio(app)) as site:
        client = await site.connect()
        await client.send(get("/", "Transfer-Encoding: chunked", method="POST"))
        sent = await send_until_stuck(client, chunk(bytes(MIB)))
        go_on.set()
    assert sent < 30 * MIB  # in the buffers of the sockets


async def test_a_client_that_does_not_read_holds_the_application_back() -> None:
    made = 0

    @only_http
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        nonlocal made
        await send(start())
        with contextlib.suppress(OSError):
            while True:
                await send(body(bytes(16384), more=True))
                made += 16384

    async with serving(on_asyncio(app)) as site:
        client = await site.connect()
        await client.send(get("/"))
        await client.until(b"\r\n\r\n")
        before = -1
        while made != before:
            before = made
            await trio.sleep(0.5)
    assert 0 < made < 30 * MIB


async def test_bodies_between_the_two_loops_are_counted() -> None:
    """They are on their way to the client, which doesn't read, and to the application, which doesn't ask further."""
    go_on = threading.Event()
    waiting = [b"x" * 20_000] * 3

    @only_http
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == "/listens":
            await receive()
            await asyncio.to_thread(go_on.wait)
            return await answer(send)
        await send(start())
        return await send(body(bytes(32 * MIB), more=True))

    async def used(more_than: int) -> int:
        with trio.fail_after(PATIENCE_S):
            while (used := current_loop().memory.used_bytes()) <= more_than:
                await trio.sleep(0.01)
        return used

    async with serving(on_asyncio(app)) as site:
        before = current_loop().memory.used_bytes()
        uploader = await site.connect()
        await uploader.send(get("/listens", "Transfer-Encoding: chunked", method="POST"))
        await uploader.send(b"".join(map(chunk, waiting)) + chunk(b""))
        try:
            with_upload = await used(before + 20_000)
            await (await site.connect()).send(get("/talks"))
            assert await used(with_upload + 32 * MIB) < with_upload + 33 * MIB
        finally:
            go_on.set()
        assert (await uploader.answer()).body == b"ok"


async def test_a_stream_without_a_pause_lets_other_tasks_run() -> None:
    """An application that only sends has no other point at which asyncio could go on with something else."""

    @only_http
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == "/other":
            return await answer(send)
        await send(start())
        with contextlib.suppress(OSError):
            while True:
                await send(body(b"x", more=True))
        return None

    async with serving(on_asyncio(app)) as site:
        endless = await site.connect()
        await endless.send(get("/endless"))
        await endless.until(b"\r\n\r\n")
        async with trio.open_nursery() as nursery:

            async def read_on() -> None:
                while await endless.receive_some():
                    pass

            nursery.start_soon(read_on)
            assert await site.ask(get("/other")) == (200, b"ok")
            nursery.cancel_scope.cancel()


async def test_an_application_may_change_what_it_has_sent() -> None:
    @only_http
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        headers = [length(4)]
        buffer = bytearray(b"good")
        head = start(200)
        head["headers"] = headers
        await send(head)
        headers.clear()
        head["status"] = 500
        last = body(buffer)  # type: ignore[arg-type]
        await send(last)
        buffer[:] = b"evil"
        last["body"] = b"evil"

    async with serving(on_asyncio(app)) as site:
        assert await site.ask(get("/")) == (200, b"good")


# Disconnects


async def test_a_client_that_leaves_is_a_disconnect() -> None:
    seen: list[Any] = []
    over = threading.Event()

    @only_http
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append((await receive())["type"])
        seen.append((await receive())["type"])
        try:
            await send(start())
            while True:  # until the system knows, after one round trip
                await send(body(b"x", more=True))
                await asyncio.sleep(0.001)
        except OSError as error:
            seen.append(type(error))
        seen.append((await receive())["type"])
        over.set()

    async with serving(on_asyncio(app)) as site:
        client = await site.connect()
        await client.send(get("/"))
        await trio.sleep(0.05)
        client.hang_up()
        assert await trio.to_thread.run_sync(over.wait, 30)
    assert seen == ["http.request", "http.disconnect", ClientDisconnected, "http.disconnect"]


async def test_an_event_that_arrives_after_its_task_was_cancelled_is_for_the_next() -> None:
    """Starlette's is_disconnected asks in this way, and a body must not lose a piece by it."""
    read: list[bytes] = []

    @only_http
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        more = True
        while more:
            try:
                event = await asyncio.wait_for(receive(), 0.001)
            except TimeoutError:
                continue
            read.append(event["body"])
            more = event["more_body"]
        await answer(send, b"".join(read))

    async with serving(on_asyncio(app)) as site:
        client = await site.connect()
        await client.send(get("/", "Content-Length: 30", method="POST"))
        for each in range(10):
            await trio.sleep(0.01)
            await client.send(b"%03d" % each)
        assert b"000001002003004005006007008009" in await client.until(b"009")


async def test_two_tasks_may_wait_for_events() -> None:
    @only_http
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        events = await asyncio.gather(receive(), receive())
        await answer(send, b"".join(sorted(event["body"] for event in events)))

    async with serving(on_asyncio(app)) as site:
        request = get("/", "Content-Length: 3", method="POST") + b"abc"
        assert await site.ask(request) == (200, b"abc")


# Errors


async def test_an_exception_is_500_with_the_traceback_of_the_application(caplog: pytest.LogCaptureFixture) -> None:
    @only_http
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await asyncio.sleep(0)
        raise ZeroDivisionError("mine")

    async with serving(on_asyncio(app)) as site:
        assert (await site.ask(get("/")))[0] == 500
    error = the_error(caplog)
    assert repr(error) == "ZeroDivisionError('mine')"
    frames = []
    tb = error.__traceback__
    while tb is not None:
        frames.append(tb.tb_frame.f_code.co_name)
        tb = tb.tb_next
    assert frames[-1] == "app"


@pytest.mark.parametrize(
    ("events", "words"),
    [
        ([start(200, length(2)), body(b"too long")], "can't be sent"),
        ([start(200, ("x", "y"))], "must be two byte strings"),  # type: ignore[arg-type]
        ([start(), start()], "twice"),
        ([body(b"x")], "before http.response.start"),
        ([start(200, length(1)), body("x")], "must be bytes"),  # type: ignore[arg-type]
        ([{"type": "http.response.trailers"}], "can't send 'http.response.trailers'"),
        ([{"type": "websocket.accept"}], "can't send 'websocket.accept'"),
        ([start()], "returned before its response was complete"),
        ([], "returned without a response"),
    ],
)
async def test_a_response_against_the_rules_is_logged(
    caplog: pytest.LogCaptureFixture, events: list[Message], words: str
) -> None:
    """Also if the application has returned before the server saw it."""

    @only_http
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        for event in events:
            await send(event)

    async with serving(on_asyncio(app)) as site:
        client = await site.connect()
        await client.send(get("/", "Connection: close"))
        await client.to_end()
    assert words in str(the_error(caplog))


async def test_an_application_gets_the_error_of_an_earlier_event_and_may_answer_then() -> None:
    seen: list[str] = []

    @only_http
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send(start(200, ("x", "y")))  # type: ignore[arg-type]
        await asyncio.sleep(0.2)  # the server looks at it meanwhile
        try:
            await send(body(b"x"))
        except UsageError as error:
            seen.append(str(error))
            await answer(send, b"an apology")

    async with serving(on_asyncio(app)) as site:
        assert await site.ask(get("/")) == (200, b"an apology")
    assert "must be two byte strings" in seen[0]


@pytest.mark.parametrize("size", [0, 2 * asyncio_side.WINDOW_BYTES])
async def test_an_error_is_raised_once(size: int, caplog: pytest.LogCaptureFixture) -> None:
    """An application that waits gets it at once, and no second time."""

    @only_http
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send(start(200, length(1)))
        for _ in range(2):
            with contextlib.suppress(UsageError):
                await send(body(bytes(size + 2), more=True))
                await asyncio.sleep(0.2)
        raise KeyError("the end")

    async with serving(on_asyncio(app)) as site:
        client = await site.connect()
        await client.send(get("/", "Connection: close"))
        await client.to_end()
    assert repr(the_error(caplog)) == "KeyError('the end')"


async def test_an_application_that_needs_trio_is_500_with_one_line_that_names_the_flag(
    caplog: pytest.LogCaptureFixture,
) -> None:
    @only_http
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == "/sleep":
            await trio.sleep(0)
        await trio.lowlevel.checkpoint()

    async with serving(on_asyncio(app)) as site:
        for path in ("/sleep", "/checkpoint"):
            assert (await site.ask(get(path)))[0] == 500
    for record in errors(caplog):
        assert record.exc_info is None
        assert ": it needs trio at " in record.getMessage()
        assert record.getMessage().endswith("--app-loop trio, or rawws.asgi(app, loop='trio')")
    assert len(errors(caplog)) == 2


async def test_a_missing_loop_of_asyncio_is_no_reason_to_advise_asyncio(caplog: pytest.LogCaptureFixture) -> None:
    @only_http
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await asyncio.to_thread(asyncio.get_running_loop)

    async with serving(on_asyncio(app)) as site:
        assert (await site.ask(get("/")))[0] == 500
    assert str(the_error(caplog)) == "no running event loop"


# The end


async def cancelled_server(app: AsgiApp, *, ready: threading.Event | None = None) -> None:
    """Serve until the application has begun to answer and is ready, and cancel the server."""
    async with trio.open_nursery() as nursery:
        server = await nursery.start(partial(rawws.serve, echo, 0, host=LOOPBACK, http=app))
        client = await Site(server).connect()
        await client.send(get("/"))
        await client.until(b"\r\n\r\n")
        if ready is not None:
            assert await trio.to_thread.run_sync(ready.wait, 30)
        nursery.cancel_scope.cancel()
    client.hang_up()


async def test_a_cancelled_application_cleans_up(bounded: None) -> None:
    seen: list[Any] = []

    @only_http
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send(start())
        try:
            await asyncio.sleep(math.inf)
        except asyncio.CancelledError:
            await asyncio.sleep(0.05)
            for event in (body(b"x", more=True), {"type": "unknown"}):
                try:
                    await send(event)
                except OSError as error:
                    seen.append(type(error))
            seen.append((await receive())["type"])
            seen.append((await receive())["type"])
            raise

    await cancelled_server(on_asyncio(app))
    assert seen == [ClientDisconnected, ClientDisconnected, "http.request", "http.disconnect"]


async def test_an_application_that_does_not_end_is_left_alone(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, bounded: None
) -> None:
    monkeypatch.setattr(asyncio_loop, "GRACE_S", 0.2)
    release, ready = threading.Event(), threading.Event()

    @only_http
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send(start())
        while not release.is_set():
            with contextlib.suppress(asyncio.CancelledError):
                ready.set()
                await asyncio.sleep(0.01)

    try:
        await cancelled_server(on_asyncio(app), ready=ready)
    finally:
        release.set()
    (line,) = [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]
    assert re.fullmatch(
        r"#0 ! a call of the application did not end within 0\.2 seconds of its cancellation "
        r"\(it is at \S+test_asyncio\.py:\d+, in app\); it is left alone",
        line,
    )


async def test_calls_that_do_not_end_together_have_one_line(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(asyncio_loop, "GRACE_S", 0.2)
    release = threading.Event()

    @only_http
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send(start())
        while not release.is_set():
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(0.01)

    try:
        async with serving(on_asyncio(app), drain=0) as site:
            for _ in range(3):
                client = await site.connect()
                await client.send(get("/"))
                await client.until(b"\r\n\r\n")
            site.server.stop()
    finally:
        release.set()
    (line,) = [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]
    assert line.startswith(
        "#0 ! 3 calls of the application did not end within 0.2 seconds of their cancellation (one is"
    )


async def test_a_task_of_its_own_that_does_not_end_is_left_alone(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(asyncio_loop, "GRACE_S", 0.2)
    release = threading.Event()
    tasks: list[asyncio.Task[None]] = []

    async def goes_on() -> None:
        while not release.is_set():
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(0.01)

    @only_http
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        tasks.append(asyncio.create_task(goes_on()))
        await answer(send)

    try:
        async with serving(on_asyncio(app)) as site:
            assert await site.ask(get("/")) == (200, b"ok")
    finally:
        release.set()
    (line,) = [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]
    assert line == "#0 ! the application's loop did not end within 0.2 seconds of its cancellation; it is left alone"


async def test_a_loop_that_is_blocked_at_the_end_is_named(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, bounded: None
) -> None:
    monkeypatch.setattr(asyncio_loop, "GRACE_S", 0.2)
    monkeypatch.setattr(asgi_lifespan, "GRACE_S", 0.2)
    is_blocked, release = threading.Event(), threading.Event()

    @only_http
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send(start())
        await asyncio.sleep(0.01)
        is_blocked.set()
        release.wait()

    try:
        await cancelled_server(on_asyncio(app), ready=is_blocked)
    finally:
        release.set()
    (line,) = [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]
    assert re.match(
        r"#0 ! the application blocks its loop, in the thread 'rawws-application' at \S+threading\.py:\d+, in wait; "
        r"it is left alone; have a function that takes long run in a thread",
        line,
    )


async def until_its_stream_ends(app: AsgiApp) -> None:
    """Serve an application, and go on serving after the end of its first response."""
    async with trio.open_nursery() as nursery:
        server = await nursery.start(partial(rawws.serve, echo, 0, host=LOOPBACK, http=app))
        client = await Site(server).connect()
        await client.send(get("/"))
        try:
            await client.to_end()
            await trio.sleep_forever()
        finally:
            client.hang_up()


async def test_an_application_that_stops_its_loop_ends_the_server(bounded: None) -> None:
    @only_http
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send(start())
        asyncio.get_running_loop().stop()
        await asyncio.sleep(math.inf)

    with pytest.raises(ExceptionGroup) as caught:
        await until_its_stream_ends(on_asyncio(app))
    (error,) = caught.value.exceptions
    assert isinstance(error, RawwsError)
    assert str(error).startswith("the loop in which the application runs has ended: RuntimeError: ")


async def test_a_loop_that_can_not_be_made_is_raised(monkeypatch: pytest.MonkeyPatch, bounded: None) -> None:
    def make_loop() -> asyncio.AbstractEventLoop:
        raise OSError("no descriptors left")

    monkeypatch.setattr(choice, "make_loop", lambda name: asyncio_loop.AsyncioLoop(name, make_loop))
    with pytest.raises(RawwsError, match="no descriptors left"):
        await rawws.serve(echo, 0, host=LOOPBACK, http=on_asyncio(says_where))


# The lifespan


async def test_the_lifespan_runs_in_the_same_loop(caplog: pytest.LogCaptureFixture) -> None:
    loops: list[object] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        loops.append(asyncio.get_running_loop())
        if scope["type"] == "http":
            assert scope["state"]["pool"] is loops
            return await answer(send)
        scope["state"]["pool"] = loops
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await asyncio.sleep(0.01)
        loops.append("down")
        return await send({"type": "lifespan.shutdown.complete"})

    caplog.set_level(logging.INFO, "rawws.server")
    async with serving(on_asyncio(app)) as site:
        assert await site.ask(get("/")) == (200, b"ok")
    assert loops == [loops[0], loops[0], "down"]
    assert "the application runs on asyncio, in a thread of its own" in caplog.text


def fails_without(library: Any) -> Any:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await library.sleep(0.001)
        if scope["type"] == "http":
            return await answer(send)
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        return await send({"type": "lifespan.shutdown.complete"})

    return app


@pytest.mark.parametrize(
    ("library", "first", "why"),
    [(asyncio, "trio", "it can't start on trio"), (trio, "trio", "tests.application.test_asyncio uses trio")],
    ids=["asyncio", "trio"],
)
async def test_auto_starts_an_application_again_on_the_loop_that_it_needs(
    caplog: pytest.LogCaptureFixture, library: Any, first: str, why: str
) -> None:
    caplog.set_level(logging.INFO, "rawws.server")
    async with serving(asgi(fails_without(library), loop="auto")) as site:
        assert await site.ask(get("/")) == (200, b"ok")
    story = caplog.text
    assert f"(--app-loop auto: {why})" in story
    assert ("it is started again on asyncio" in story) is (library is asyncio)


async def test_auto_gives_up_after_both(bounded: None) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await asyncio.sleep(0)
        await trio.sleep(0)

    loop_that_fails = asgi(app, loop="auto", lifespan="on")
    with pytest.raises(UsageError, match=r"it needs trio at "):
        await rawws.serve(echo, 0, host=LOOPBACK, http=loop_that_fails)


# A route that blocks


async def test_an_application_that_blocks_its_loop_delays_no_websocket() -> None:
    @only_http
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        time.sleep(1)
        await answer(send)

    async with serving(on_asyncio(app)) as site, rawws.connect(f"ws://{LOOPBACK}:{site.port}/") as ws:
        slowest_s = 0.0
        echoes = 0
        is_answered = trio.Event()

        async def ask() -> None:
            assert await site.ask(get("/")) == (200, b"ok")
            is_answered.set()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask)
            while not is_answered.is_set():
                began = trio.current_time()
                await ws.send("x")
                await ws.recv()
                slowest_s = max(slowest_s, trio.current_time() - began)
                echoes += 1
                await trio.sleep(0.01)
    assert echoes > 20
    assert slowest_s < 0.5
