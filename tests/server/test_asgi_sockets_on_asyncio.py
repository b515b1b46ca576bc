"""The WebSockets of an application that runs on asyncio: its time limits, its cancellation, and Django Channels."""

# ruff: noqa: ARG001 (an application takes what ASGI gives it)

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from collections.abc import AsyncIterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

import rawws
from rawws.application.spec import Receive, Scope, Send
from rawws.relay.loop import current_loop
from rawws.server.asgi import asgi
from tests.asgi_serving import MIB, App, Caller, Site, serving
from tests.serving.client import Client
from tests.serving.machine import PATIENCE_S, need
from tests.serving.programs import StartProgram
from tests.serving.wire import binary, close, get, seen_close, seen_text, text, upgrade

ACCEPT = {"type": "websocket.accept"}


@contextlib.asynccontextmanager
async def on_asyncio(app: App, **options: Any) -> AsyncIterator[Site]:
    async with serving(asgi(app, lifespan="off", loop="asyncio"), rawws.Hub(), **options) as site:
        yield site


async def opened(site: Site, path: str = "/ws") -> Caller:
    caller = await site.connect()
    await caller.open(path)
    return caller


async def happens(event: threading.Event) -> None:
    assert await trio.to_thread.run_sync(event.wait, PATIENCE_S)


async def test_it_echoes_with_asyncio_in_between() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send(ACCEPT)
        while (event := await receive())["type"] == "websocket.receive":
            await asyncio.sleep(0.001)
            await send({"type": "websocket.send", "text": event["text"]})

    async with on_asyncio(app) as site:
        caller = await opened(site)
        await caller.send(b"".join(text(str(number)) for number in range(50)))
        assert await caller.frames(50) == [seen_text(str(number)) for number in range(50)]


async def test_thousands_of_messages_arrive_in_their_order_before_the_end() -> None:
    result: list[tuple[list[int], int]] = []
    over = threading.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send(ACCEPT)
        numbers = []
        while (event := await receive())["type"] == "websocket.receive":
            numbers.append(int(event["text"]))
        result.append((numbers, event["code"]))
        over.set()

    async with on_asyncio(app) as site:
        caller = await opened(site)
        await caller.send(b"".join(text(str(number)) for number in range(3000)) + close(4001))
        assert await caller.frame() == seen_close(4001)
        await happens(over)
    assert result == [(list(range(3000)), 4001)]


async def test_messages_that_came_with_the_close_are_answered_before_ours() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send(ACCEPT)
        while (event := await receive())["type"] == "websocket.receive":
            await send({"type": "websocket.send", "text": event["text"]})

    async with on_asyncio(app) as site:
        for _ in range(20):  # trio runs the tasks of a turn in any order
            caller = await opened(site)
            await caller.send(text("1") + text("2") + close(1000))
            assert await caller.frames_to_close() == [seen_text("1"), seen_text("2"), seen_close(1000)]


async def test_a_receive_that_times_out_loses_no_message() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send(ACCEPT)
        for _ in range(3):
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(receive(), 0.001)
        await send({"type": "websocket.send", "text": "go"})
        texts = [(await receive())["text"] for _ in range(2)]
        await send({"type": "websocket.send", "text": " ".join(texts)})

    async with on_asyncio(app) as site:
        caller = await opened(site)
        assert await caller.frame() == seen_text("go")
        await caller.send(text("one") + text("two"))
        assert await caller.frames(2) == [seen_text("one two"), seen_close(1000)]


class Left(Exception):
    """The exception that a framework raises when the client has left."""


Left.__name__ = "WebSocketDisconnect"  # Starlette's


async def test_a_client_that_leaves_ends_an_application_of_two_tasks(caplog: pytest.LogCaptureFixture) -> None:
    over = threading.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        async def read() -> None:
            while (await receive())["type"] != "websocket.disconnect":
                pass
            raise Left

        async def tick() -> None:
            while True:
                await send({"type": "websocket.send", "text": "tick"})
                await asyncio.sleep(0.001)

        await receive()
        await send(ACCEPT)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(read())
                group.create_task(tick())
        finally:
            over.set()

    async with on_asyncio(app) as site:
        caller = await opened(site)
        assert await caller.frame() == seen_text("tick")
        await caller.send(text("hello") + close(1000))
        await caller.frames_to_close()
        await happens(over)
        other = await opened(site)
        over.clear()
        other.reset()
        await happens(over)
    assert [record for record in caplog.records if record.exc_info] == []


async def test_a_client_that_leaves_wakes_an_application_that_sends(caplog: pytest.LogCaptureFixture) -> None:
    over = threading.Event()
    raised: list[str] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send(ACCEPT)
        try:
            while True:
                await send({"type": "websocket.send", "bytes": bytes(MIB)})
        except OSError as error:
            raised.append(type(error).__name__)
            raise
        finally:
            over.set()

    async with on_asyncio(app) as site:
        caller = await opened(site)
        await wait_all_tasks_blocked(0.05)
        caller.reset()
        await happens(over)
    assert raised == ["ClientDisconnected"]
    assert [record for record in caplog.records if record.exc_info] == []


async def test_a_client_that_does_not_read_can_still_send() -> None:
    got = threading.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        async def fill() -> None:
            while True:
                await send({"type": "websocket.send", "bytes": bytes(MIB)})

        await receive()
        await send(ACCEPT)
        filling = asyncio.ensure_future(fill())
        for _ in range(300):
            await receive()
        got.set()
        filling.cancel()

    async with on_asyncio(app) as site:
        caller = await opened(site)
        await wait_all_tasks_blocked(0.05)  # until the application can send no more
        await caller.send(binary(bytes(MIB // 16)) * 300)
        await happens(got)


async def test_one_that_never_decides_is_cancelled(caplog: pytest.LogCaptureFixture) -> None:
    cancelled = threading.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await asyncio.sleep(1000)
        except asyncio.CancelledError:
            cancelled.set()
            raise

    async with on_asyncio(app, open_timeout=0.2) as site:
        assert (await site.ask(upgrade("/ws")))[0] == 503
        await happens(cancelled)
    assert "the ASGI application took too long to accept or refuse /ws; it is cancelled" in caplog.text
    assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []


@pytest.mark.parametrize("leave", [Client.reset, Client.hang_up])
async def test_one_whose_client_leaves_before_its_decision_gets_to_know(
    leave: Any, caplog: pytest.LogCaptureFixture
) -> None:
    asked, over = threading.Event(), threading.Event()
    seen: list[object] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
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

    async with on_asyncio(app) as site:
        caller = await site.connect()
        await caller.send(upgrade("/ws"))
        await happens(asked)
        leave(caller)
        await happens(over)
    assert seen == [{"type": "websocket.disconnect", "code": 1006, "reason": ""}, "ClientDisconnected"]
    assert [record for record in caplog.records if record.exc_info] == []


async def test_an_application_without_websockets_leaves_one_traceback(caplog: pytest.LogCaptureFixture) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            raise ValueError(scope["type"])
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
        await send({"type": "http.response.body", "body": b""})

    async with on_asyncio(app) as site:
        assert [(await site.ask(upgrade("/ws")))[0] for _ in range(3)] == [500] * 3
        assert (await site.ask(get("/")))[0] == 200
    assert len([record for record in caplog.records if record.exc_info]) == 1


async def test_a_client_that_floods_and_one_that_does_not_read_are_slowed_down() -> None:
    go_on = threading.Event()
    sent = [0]

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send(ACCEPT)
        if scope["path"] == "/talks":
            while sent[0] < 40:
                await send({"type": "websocket.send", "bytes": bytes(MIB)})
                sent[0] += 1
            return
        await asyncio.to_thread(go_on.wait)
        for _ in range(100):
            await receive()
        await send({"type": "websocket.send", "text": "got them all"})

    async with on_asyncio(app) as site:
        flooding, silent = await opened(site, "/listens"), await opened(site, "/talks")
        flood = trio.Event()

        async def send() -> None:
            await flooding.send(binary(bytes(MIB // 4)) * 100)
            flood.set()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(send)
            await wait_all_tasks_blocked(0.2)
            assert not flood.is_set()
            assert sent[0] < 20
            assert current_loop().memory.used_bytes() < 12 * MIB
            go_on.set()
            assert await flooding.frame() == seen_text("got them all")
        assert [len(frame.payload) for frame in await silent.frames(40)] == [MIB] * 40


async def test_messages_that_cross_together_stay_counted() -> None:
    has_one, go_on = threading.Event(), threading.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send(ACCEPT)
        await receive()
        has_one.set()
        await asyncio.to_thread(go_on.wait)

    async with on_asyncio(app) as site:
        caller = await opened(site)
        before = current_loop().memory.used_bytes()
        await caller.send(binary(bytes(3000)) * 15)
        await happens(has_one)
        try:
            with trio.fail_after(PATIENCE_S):
                while current_loop().memory.used_bytes() - before < 14 * 3000:
                    await trio.sleep(0.01)
        finally:
            go_on.set()


async def test_a_stop_tells_it_and_cancels_it_at_the_end_of_the_drain() -> None:
    events: list[object] = []
    cancelled = threading.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send(ACCEPT)
        events.append(await receive())
        try:
            await asyncio.sleep(1000)
        except asyncio.CancelledError:
            cancelled.set()
            raise

    async with on_asyncio(app, drain=0.3) as site:
        caller = await opened(site)
        site.server.stop()
        assert await caller.frame() == seen_close(1001, "the server is shutting down")
        await caller.send(close(1001))
        await happens(cancelled)
    assert events == [{"type": "websocket.disconnect", "code": 1001, "reason": ""}]


async def test_it_publishes_into_a_room_with_the_handle_in_its_state() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send(ACCEPT)
        while (event := await receive())["type"] == "websocket.receive":
            scope["state"]["rawws"].room("/room/x").publish(event["text"])

    async with on_asyncio(app) as site:
        reader, writer = await opened(site, "/room/x"), await opened(site)
        await writer.send(text("one") + text("two"))
        assert await reader.frames(2) == [seen_text("one"), seen_text("two")]


async def test_an_application_that_blocks_its_loop_delays_no_room() -> None:
    go_on = threading.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send(ACCEPT)
        go_on.wait(PATIENCE_S)  # which blocks

    async with on_asyncio(app) as site:
        blocking = await opened(site)
        room = await opened(site, "/room/x")
        await room.send(text("hello"))
        assert await room.frame() == seen_text("hello")
        go_on.set()
        assert await blocking.frame() == seen_close(1000)


# Django Channels

SITE = """
import os
os.environ["DJANGO_SETTINGS_MODULE"] = "settings"

from channels.generic.websocket import AsyncWebsocketConsumer, JsonWebsocketConsumer
from channels.routing import ProtocolTypeRouter, URLRouter
from channels.security.websocket import AllowedHostsOriginValidator
from django.core.asgi import get_asgi_application
from django.http import HttpResponse
from django.urls import path

pages = get_asgi_application()


class Chat(AsyncWebsocketConsumer):
    async def connect(self):
        self.group = "chat_" + self.scope["url_route"]["kwargs"]["name"]
        await self.channel_layer.group_add(self.group, self.channel_name)
        await self.accept()

    async def disconnect(self, code):
        await self.channel_layer.group_discard(self.group, self.channel_name)
        await self.channel_layer.group_send(self.group, {"type": "said", "words": f"left with {code}"})

    async def receive(self, text_data):
        await self.channel_layer.group_send(self.group, {"type": "said", "words": text_data})

    async def said(self, event):
        await self.send(text_data=event["words"])


class Sums(JsonWebsocketConsumer):
    def connect(self):
        self.accept(subprotocol="sums")

    def receive_json(self, content):
        self.send_json({"sum": sum(content)})
        if not content:
            self.close(code=4000, reason="nothing to add")


class Refuses(AsyncWebsocketConsumer):
    async def connect(self):
        await self.close()


sockets = [path("chat/<name>", Chat.as_asgi()), path("sums", Sums.as_asgi()), path("no", Refuses.as_asgi())]
application = ProtocolTypeRouter(
    {"http": pages, "websocket": AllowedHostsOriginValidator(URLRouter(sockets))}
)
"""

SETTINGS = """
SECRET_KEY = "x"
ALLOWED_HOSTS = ["localhost"]
ROOT_URLCONF = "urls"
CHANNEL_LAYERS = {"default": {"BACKEND": "channels.layers.InMemoryChannelLayer"}}
"""

URLS = """
from django.http import HttpResponse
from django.urls import path

async def page(request):
    return HttpResponse("a page")

urlpatterns = [path("", page)]
"""


async def test_django_channels_has_its_consumers_beside_rooms(start_program: StartProgram, tmp_path: Path) -> None:
    for name in ("django", "channels"):
        need(find_spec(name), name)
    for name, source in (("site_", SITE), ("settings", SETTINGS), ("urls", URLS)):
        (tmp_path / f"{name}.py").write_text(source)
    program = start_program("--app", "site_:application", "--hello", "", directory=tmp_path)
    assert (await (await program.connect()).ask(get("/"))).body == b"a page"
    first, second = [await (await program.connect()).open("/chat/x", "Origin: http://localhost") for _ in range(2)]
    await second.send(text("hello"))
    assert [await each.frame() for each in (first, second)] == [seen_text("hello")] * 2
    await second.send(close(4001))
    assert await first.frame() == seen_text("left with 4001")
    sums = await program.connect()
    answer = await sums.ask(upgrade("/sums", "Sec-WebSocket-Protocol: sums", "Origin: http://localhost"))
    assert answer.headers["sec-websocket-protocol"] == "sums"
    await sums.send(text("[1, 2]") + text("[]"))
    assert await sums.frames(3) == [
        seen_text('{"sum": 3}'),
        seen_text('{"sum": 0}'),
        seen_close(4000, "nothing to add"),
    ]
    assert (await (await program.connect()).ask(upgrade("/no", "Origin: http://localhost"))).status == 403
    room = await (await program.connect()).open("/room/x")
    await room.send(text("a room"))
    assert await room.frame() == seen_text("a room")
    assert [line for line in program.lines if "ERROR" in line or "Traceback" in line] == []
