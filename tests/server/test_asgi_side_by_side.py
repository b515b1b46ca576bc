"""The same applications under rawws, uvicorn and hypercorn: what the client and the application see, side by side.

Each row of `CASES` is an application and a client, and the story of both in words. Where the servers differ, the row
has the story under each of them. A new release of another server may change its story; the row shows in what.
"""

# ruff: noqa: ARG001 (an application takes what ASGI gives it)

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from typing import Any

import pytest
import trio

import rawws
from rawws.application.spec import Message, Receive, Scope, Send
from rawws.server.asgi import asgi
from rawws.wire.frames import Opcode
from tests.asgi_serving import MIB, Caller
from tests.serving.machine import LOOPBACK, PATIENCE_S, need
from tests.serving.wire import Seen, binary, close, masked, ping, text, upgrade

ACCEPT = {"type": "websocket.accept"}
CLOSE = {"type": "websocket.close"}
MAX_SIZE = 2 * MIB

Client = Callable[[Caller], Awaitable[list[str]]]


def sends(content: str | bytes) -> Message:
    return {"type": "websocket.send", "text" if isinstance(content, str) else "bytes": content}


def content_of(event: Message) -> str | bytes:
    """Return the content of a message, the other kind of which may be missing or None."""
    text: str | None = event.get("text")
    data: bytes = event.get("bytes") or b""
    return data if text is None else text


def deny(status: int, *headers: tuple[bytes, bytes]) -> Message:
    return {"type": "websocket.http.response.start", "status": status, "headers": list(headers)}


def part(data: bytes, *, more: bool = False) -> Message:
    return {"type": "websocket.http.response.body", "body": data, "more_body": more}


class Channel:
    """An application's side of one case, which takes notes."""

    def __init__(self, receive: Receive, send: Send) -> None:
        self.notes: list[str] = []
        self.over = threading.Event()
        self._receive, self._send = receive, send

    async def receive(self) -> Message:
        event = await self._receive()
        match event["type"]:
            case "websocket.receive":
                self.notes.append(f"got {_short(content_of(event))}")
            case "websocket.disconnect":
                self.notes.append(f"disconnect {_end(event['code'], event.get('reason') or '')}")
            case kind:
                self.notes.append(kind.removeprefix("websocket."))
        return event

    async def send(self, *messages: Message) -> None:
        for message in messages:
            await self._send(message)

    async def try_send(self, message: Message) -> None:
        """Send, and note the kind of the exception, if there is one."""
        try:
            await self._send(message)
        except OSError:
            self.notes.append("send raised an OSError")
        except Exception:
            self.notes.append("send raised another exception")
        else:
            self.notes.append("send raised nothing")

    async def to_end(self) -> None:
        while (await self.receive())["type"] != "websocket.disconnect":
            pass


Endpoint = Callable[[Channel], Awaitable[None]]


def _end(code: int, reason: str) -> str:
    """Return a code with its reason, unless that is one of the server's own words."""
    return f"{code} {reason}".strip() if code >= 4000 else str(code)


def _short(content: str | bytes) -> str:
    return repr(content) if len(content) < 100 else f"{len(content)} {type(content).__name__}"


# Clients. Each returns its notes.


def in_words(frame: Seen) -> str:
    match frame.opcode:
        case Opcode.TEXT:
            return f"text {_short(frame.payload.decode())}"
        case Opcode.BINARY:
            return f"binary {_short(frame.payload)}"
        case Opcode.CLOSE:
            code = int.from_bytes(frame.payload[:2], "big") if frame.payload else 1005
            return f"close {_end(code, frame.payload[2:].decode())}"
        case opcode:
            return f"{opcode.name.lower()} {frame.payload!r}"


async def open_(caller: Caller, *lines: str) -> list[str]:
    """Request the upgrade; note the status, and of a 101 the subprotocol and the application's own fields."""
    await caller.send(upgrade("/", *lines))
    try:
        answer = await caller.answer()
    except AssertionError:
        return ["no answer"]
    fields = [f"{name}: {value}" for name, value in sorted(answer.headers.items()) if name.startswith("x-app")]
    subprotocol = answer.headers.get("sec-websocket-protocol")
    if answer.status != 101:
        return [str(answer.status), *fields]
    return ["101", *fields, *([] if subprotocol is None else [f"speaks {subprotocol}"])]


async def rest(caller: Caller) -> list[str]:
    """Note every frame up to a close, which is answered, or to the end of the stream."""
    notes = []
    try:
        while True:
            frame = await caller.frame()
            notes.append(in_words(frame))
            if frame.opcode is Opcode.CLOSE:
                with contextlib.suppress(OSError):
                    await caller.send(masked(Opcode.CLOSE, frame.payload))
                return notes
    except (AssertionError, OSError):
        return [*notes, "cut off"]


FRAME = b""  # a step of a client: it reads a frame


def talks(*steps: bytes, lines: tuple[str, ...] = ()) -> Client:
    """A client that opens, sends each piece or reads a frame, and reads to the end."""

    async def client(caller: Caller) -> list[str]:
        notes = await open_(caller, *lines)
        if notes[0] == "101":
            for step in steps:
                if step:
                    with contextlib.suppress(OSError):  # a server that has had enough of it need not read the rest
                        await caller.send(step)
                else:
                    notes.append(in_words(await caller.frame()))
            notes += await rest(caller)
        return notes

    return client


async def leaves(caller: Caller) -> list[str]:
    notes = await open_(caller)
    await caller.frame()
    caller.reset()
    return notes


async def reads_a_response(caller: Caller) -> list[str]:
    await caller.send(upgrade("/"))
    answer = await caller.answer()
    return [str(answer.status), repr(answer.body), answer.headers.get("x-app", "")]


async def reads_nothing_at_first(caller: Caller) -> list[str]:
    notes = await open_(caller)
    await trio.sleep(0.3)
    return notes + await rest(caller)


# Applications


async def echo(channel: Channel) -> None:
    await channel.receive()
    await channel.send(ACCEPT)
    while (event := await channel.receive())["type"] == "websocket.receive":
        await channel.send(sends(content_of(event)))


async def accepts_with_fields(channel: Channel) -> None:
    await channel.receive()
    await channel.send({**ACCEPT, "subprotocol": "v1", "headers": [(b"x-app-1", b"a"), (b"x-app-2", b"b")]})
    await channel.send({**CLOSE, "code": 4000, "reason": "enough"})
    await channel.to_end()


async def accepts_what_is_not_offered(channel: Channel) -> None:
    await channel.receive()
    await channel.send({**ACCEPT, "subprotocol": "v9"}, CLOSE)


async def accepts_and_listens(channel: Channel) -> None:
    await channel.receive()
    await channel.send(ACCEPT, sends("ready"))
    await channel.to_end()


async def refuses(channel: Channel) -> None:
    await channel.receive()
    await channel.send({**CLOSE, "code": 4000})
    await channel.to_end()


async def denies(channel: Channel) -> None:
    await channel.receive()
    await channel.send(deny(401, (b"content-length", b"5"), (b"x-app", b"yes")), part(b"login"))


async def denies_in_pieces(channel: Channel) -> None:
    await channel.receive()
    await channel.send(deny(503, (b"x-app", b"yes")), part(b"one ", more=True), part(b"two"))


async def fails_first(channel: Channel) -> None:
    await channel.receive()
    raise ZeroDivisionError


async def returns_first(channel: Channel) -> None:
    await channel.receive()


async def sends_first(channel: Channel) -> None:
    await channel.receive()
    await channel.send(sends("too early"))


async def fails_later(channel: Channel) -> None:
    await channel.receive()
    await channel.send(ACCEPT, sends("hello"))
    raise ZeroDivisionError


async def returns_later(channel: Channel) -> None:
    await channel.receive()
    await channel.send(ACCEPT, sends("hello"))


async def accepts_twice(channel: Channel) -> None:
    await channel.receive()
    await channel.send(ACCEPT)
    await channel.try_send(ACCEPT)
    await channel.send(CLOSE)


async def sends_after_its_close(channel: Channel) -> None:
    await channel.receive()
    await channel.send(ACCEPT, CLOSE)
    await channel.try_send(sends("more"))


async def sends_after_the_clients_close(channel: Channel) -> None:
    await channel.receive()
    await channel.send(ACCEPT, sends("ready"))
    await channel.to_end()
    await channel.try_send(sends("more"))


async def sends_much(channel: Channel) -> None:
    await channel.receive()
    await channel.send(ACCEPT)
    for _ in range(24):
        await channel.send(sends(bytes(MIB)))
    await channel.send(CLOSE)


@dataclass(frozen=True)
class Story:
    """The notes of the client and of the application under a server; None is what they note under rawws."""

    client: list[str] | None = None
    application: list[str] | None = None
    end: str = ""  # the code with which the application gets its ``websocket.disconnect``, if only that differs


SAME = Story()
# hypercorn reports neither the client's code nor the application's own.
HYPERCORN_LOST, HYPERCORN_CLOSED = Story(end="1006"), Story(end="1000")


@dataclass
class Case:
    """An application and a client, and what they note under rawws and under the others."""

    app: Endpoint
    client: Client
    ours: list[str]
    application: list[str]
    uvicorn: Story = SAME
    hypercorn: Story = SAME
    asyncio: Story = SAME  # under rawws too; an error of a message is raised by the next event that is sent

    def notes(self, server: str) -> tuple[list[str], list[str]]:
        """Return the notes of the client and of the application under a server."""
        story: Story = getattr(self, server, SAME)
        application = self.application if story.application is None else story.application
        if story.end:
            application = [f"disconnect {story.end}" if "disconnect" in each else each for each in application]
        return self.ours if story.client is None else story.client, application


BYE = close(4001, "bye")

CASES: dict[str, Case] = {
    "text": Case(
        echo,
        talks(text("hello é"), FRAME, BYE),
        ["101", "text 'hello é'", "close 4001 bye"],
        ["connect", "got 'hello é'", "disconnect 4001 bye"],
        hypercorn=HYPERCORN_LOST,
    ),
    "bytes": Case(
        echo,
        talks(binary(b"\0\xff"), FRAME, BYE),
        ["101", r"binary b'\x00\xff'", "close 4001 bye"],
        ["connect", r"got b'\x00\xff'", "disconnect 4001 bye"],
        hypercorn=HYPERCORN_LOST,
    ),
    "empty messages": Case(
        echo,
        talks(text(""), FRAME, binary(b""), FRAME, BYE),
        ["101", "text ''", "binary b''", "close 4001 bye"],
        ["connect", "got ''", "got b''", "disconnect 4001 bye"],
        hypercorn=HYPERCORN_LOST,
    ),
    "fragments around a ping": Case(
        echo,
        talks(masked(Opcode.TEXT, b"a", fin=False), ping(b"x"), masked(Opcode.CONTINUATION, b"b"), FRAME, FRAME, BYE),
        ["101", "pong b'x'", "text 'ab'", "close 4001 bye"],
        ["connect", "got 'ab'", "disconnect 4001 bye"],
        hypercorn=HYPERCORN_LOST,
    ),
    "a big message": Case(
        echo,
        talks(binary(bytes(MIB)), FRAME, BYE),
        ["101", f"binary {MIB} bytes", "close 4001 bye"],
        ["connect", f"got {MIB} bytes", "disconnect 4001 bye"],
        hypercorn=HYPERCORN_LOST,
    ),
    "a message that is too big": Case(
        echo,
        talks(binary(bytes(MAX_SIZE + 1))),
        ["101", "close 1009"],
        ["connect", "disconnect 1009"],
        hypercorn=HYPERCORN_LOST,
    ),
    "subprotocol and headers": Case(
        accepts_with_fields,
        talks(lines=("Sec-WebSocket-Protocol: v2, v1",)),
        ["101", "x-app-1: a", "x-app-2: b", "speaks v1", "close 4000 enough"],
        ["connect", "disconnect 4000 enough"],
        hypercorn=HYPERCORN_CLOSED,
    ),
    "a subprotocol that isn't offered": Case(
        accepts_what_is_not_offered,
        talks(lines=("Sec-WebSocket-Protocol: v1",)),
        ["500"],
        ["connect", "failed"],
        uvicorn=Story(["101", "speaks v9", "close 1000"], ["connect"]),  # a client has to fail such a connection
        hypercorn=Story(["no answer"]),
    ),
    "the client closes without a code": Case(
        accepts_and_listens,
        talks(FRAME, masked(Opcode.CLOSE)),
        ["101", "text 'ready'", "close 1005"],
        ["connect", "disconnect 1005"],
        hypercorn=HYPERCORN_LOST,
    ),
    "the client vanishes": Case(
        accepts_and_listens, leaves, ["101"], ["connect", "disconnect 1006"], uvicorn=Story(end="1005")
    ),
    "close before the acceptance": Case(
        refuses, talks(), ["403"], ["connect", "disconnect 1006"], hypercorn=HYPERCORN_CLOSED
    ),
    "a response of its own": Case(denies, reads_a_response, ["401", "b'login'", "yes"], ["connect"]),
    "a response in pieces": Case(denies_in_pieces, reads_a_response, ["503", "b'one two'", "yes"], ["connect"]),
    "an exception before the acceptance": Case(fails_first, talks(), ["500"], ["connect", "failed"]),
    "a return before the acceptance": Case(returns_first, talks(), ["500"], ["connect"]),
    "a message before the acceptance": Case(
        sends_first, talks(), ["500"], ["connect", "failed"], asyncio=Story(application=["connect"])
    ),
    "an exception after the acceptance": Case(
        fails_later,
        talks(),
        ["101", "text 'hello'", "close 1011"],
        ["connect", "failed"],
        uvicorn=Story(["101", "text 'hello'", "cut off"]),
    ),
    "a return without a close": Case(
        returns_later,
        talks(),
        ["101", "text 'hello'", "close 1000"],
        ["connect"],
        uvicorn=Story(["101", "text 'hello'", "cut off"]),
        hypercorn=Story(["101", "text 'hello'", "close 1011"]),
    ),
    "a second acceptance": Case(
        accepts_twice, talks(), ["101", "close 1000"], ["connect", "send raised another exception"]
    ),
    "a message after its own close": Case(
        sends_after_its_close,
        talks(),
        ["101", "close 1000"],
        ["connect", "send raised an OSError"],
        uvicorn=Story(application=["connect", "send raised another exception"]),
        hypercorn=Story(application=["connect", "send raised another exception"]),
        asyncio=Story(application=["connect", "send raised nothing"]),
    ),
    "a message after the client's close": Case(
        sends_after_the_clients_close,
        talks(FRAME, BYE),
        ["101", "text 'ready'", "close 4001 bye"],
        ["connect", "disconnect 4001 bye", "send raised an OSError"],
        hypercorn=Story(application=["connect", "disconnect 1006", "send raised nothing"]),
        asyncio=Story(application=["connect", "disconnect 4001 bye", "send raised nothing"]),
    ),
    "a client that reads slowly": Case(
        sends_much, reads_nothing_at_first, ["101", *[f"binary {MIB} bytes"] * 24, "close 1000"], ["connect"]
    ),
}


# Servers


class Stage:
    """The application of every server, which plays one case at a time."""

    def __init__(self) -> None:
        self.case: Case | None = None
        self.channel: Channel | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await receive()
            await send({"type": "lifespan.startup.complete"})
            await receive()
            await send({"type": "lifespan.shutdown.complete"})
            return
        assert scope["type"] == "websocket"
        assert self.case is not None
        channel = self.channel = Channel(receive, send)
        try:
            await self.case.app(channel)
        except Exception:
            channel.notes.append("failed")
            raise
        finally:
            channel.over.set()


@dataclass
class Running:
    name: str
    stage: Stage
    port: int


@contextlib.contextmanager
def uvicorn_running() -> Iterator[Running]:
    import uvicorn

    stage = Stage()
    listener = socket.create_server((LOOPBACK, 0))
    config = uvicorn.Config(stage, log_config=None, ws="websockets-sansio", ws_max_size=MAX_SIZE, lifespan="off")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        yield Running("uvicorn", stage, listener.getsockname()[1])
    finally:
        server.should_exit = True
        thread.join(PATIENCE_S)
        listener.close()


@contextlib.contextmanager
def hypercorn_running() -> Iterator[Running]:
    import hypercorn.asyncio
    from hypercorn.config import Config

    stage = Stage()
    listener = socket.create_server((LOOPBACK, 0))
    config = Config()
    config.bind = [f"fd://{listener.fileno()}"]  # which it closes
    config.websocket_max_message_size = MAX_SIZE
    config.errorlog = config.accesslog = None
    loop = asyncio.new_event_loop()
    stop = asyncio.Event()
    serve: Any = hypercorn.asyncio.serve
    thread = threading.Thread(target=loop.run_until_complete, args=[serve(stage, config, shutdown_trigger=stop.wait)])
    thread.start()
    port = listener.getsockname()[1]
    listener.detach()
    try:
        yield Running("hypercorn", stage, port)
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(PATIENCE_S)
        loop.close()


OTHERS = {"uvicorn": uvicorn_running, "hypercorn": hypercorn_running}


@pytest.fixture(scope="module", params=OTHERS)
def other(request: pytest.FixtureRequest) -> Iterator[Running]:
    need(find_spec(request.param), request.param)
    with OTHERS[request.param]() as running:
        yield running


async def play(case: Case, running: Running) -> tuple[list[str], list[str]]:
    """Return what the client and the application see."""
    running.stage.case = case
    caller = Caller(socket.socket())
    with trio.fail_after(PATIENCE_S):
        await caller.connect(running.port)
        try:
            notes = await case.client(caller)
        finally:
            caller.hang_up()
        channel = running.stage.channel
        assert channel is not None
        assert await trio.to_thread.run_sync(channel.over.wait, PATIENCE_S)
    return notes, channel.notes


@contextlib.asynccontextmanager
async def rawws_running(loop: Any) -> AsyncIterator[Running]:
    stage = Stage()
    async with trio.open_nursery() as nursery:
        http = asgi(stage, lifespan="off", loop=loop)
        start = partial(rawws.serve, rawws.Hub(), 0, host=LOOPBACK, http=http, max_size=MAX_SIZE)
        server = await nursery.start(start)
        yield Running("rawws", stage, server.port)
        server.stop()


@pytest.mark.parametrize("loop", ["trio", "asyncio"])
@pytest.mark.parametrize("name", CASES)
async def test_a_case_under_rawws(name: str, loop: str, bounded: None) -> None:
    async with rawws_running(loop) as running:
        assert await play(CASES[name], running) == CASES[name].notes(loop)


@pytest.mark.parametrize("name", CASES)
async def test_a_case_under_another_server(
    name: str, other: Running, bounded: None, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL)
    assert await play(CASES[name], other) == CASES[name].notes(other.name)
