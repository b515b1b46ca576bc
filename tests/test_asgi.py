"""ASGI applications beside the WebSockets: what they are told, what they may send, and how they start and end.

The first half speaks raw HTTP to applications that are a function each. The second has Starlette and FastAPI, as
their users write them, and httpx for a client. All of it goes through `rawws.serve` and real sockets.
"""

# ruff: noqa: ARG001 (an application takes what ASGI gives it)

from __future__ import annotations

import contextlib
import contextvars
import logging
import os
import shutil
import socket
import ssl
import sys
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

import rawws
from rawws.asgi_app import AsgiApp, Message, Receive, Scope, Send, asgi, load_app
from rawws.errors import ListenError, UsageError
from rawws.server import Server
from rawws.transport import open_listeners
from rawws.websocket import WebSocket
from tests.serving import LOOPBACK, PATIENCE_S, Client, get, need, seen_text, text

# Each test that needs one of these says so.
with contextlib.suppress(ImportError):
    import httpx
with contextlib.suppress(ImportError):
    import trustme
with contextlib.suppress(ImportError):
    import fastapi
with contextlib.suppress(ImportError):
    import starlette.background
    import starlette.middleware.base
    import starlette.requests
    from starlette.applications import Starlette
    from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
    from starlette.routing import Route

App = Callable[[Scope, Receive, Send], Awaitable[None]]

MIB = 1 << 20


async def echo(websocket: WebSocket) -> None:
    async for message in websocket:
        await websocket.send(message)


class Caller(Client):
    """A raw client that can read a response whose length isn't given."""

    async def until(self, mark: bytes) -> bytes:
        """Return all that comes up to a mark, which is included."""
        while (end := self._unread.find(mark)) < 0:
            assert await self._receive_more(), f"the stream ends before {mark!r}: {bytes(self._unread)!r}"
        return self._take(end + len(mark))

    async def to_end(self) -> bytes:
        """Return all that comes before the server ends the stream."""
        while await self._receive_more():
            pass
        return self._take(len(self._unread))

    async def receive_some(self) -> int:
        """Read what is there, and return how many bytes it was."""
        await self._receive_more()
        return len(self._take(len(self._unread)))


class Site:
    """A server that runs, and the clients that the test has had connect to it."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.port = server.port
        self._clients: list[Client] = []

    async def connect(self) -> Caller:
        caller = Caller(socket.socket())
        self._clients.append(caller)
        await caller.connect(self.port)
        return caller

    async def ask(self, request: bytes) -> tuple[int, bytes]:
        """Send a request on a connection of its own, and return the answer's status and body."""
        answer = await (await self.connect()).ask(request)
        return answer.status, answer.body

    @property
    def url(self) -> str:
        return f"http://{LOOPBACK}:{self.port}"

    def hang_up(self) -> None:
        for client in self._clients:
            client.hang_up()


@contextlib.asynccontextmanager
async def serving(app: App | AsgiApp, **options: Any) -> AsyncIterator[Site]:
    """Serve an application, with a WebSocket echo beside it, and see the server to its orderly end."""
    http = app if isinstance(app, AsgiApp) else asgi(app)
    with trio.fail_after(PATIENCE_S):
        async with trio.open_nursery() as nursery:
            server = await nursery.start(partial(rawws.serve, echo, 0, host=LOOPBACK, http=http, **options))
            site = Site(server)
            try:
                yield site
            finally:
                site.hang_up()
                server.stop()


def errors(caplog: pytest.LogCaptureFixture, logger: str = "rawws.http") -> list[logging.LogRecord]:
    """Return what a logger has written that an operator would be woken for."""
    return [record for record in caplog.records if record.name == logger and record.levelno >= logging.ERROR]


def the_error(caplog: pytest.LogCaptureFixture) -> BaseException:
    """Return the exception of the one traceback in the log."""
    (record,) = errors(caplog)
    assert record.exc_info is not None
    assert record.exc_info[1] is not None
    return record.exc_info[1]


def only_http(app: App) -> App:
    """Give an application a lifespan that does nothing."""

    async def wrapped(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "lifespan":
            return await app(scope, receive, send)
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        return await send({"type": "lifespan.shutdown.complete"})

    return wrapped


def start(status: int = 200, *headers: tuple[bytes, bytes]) -> Message:
    return {"type": "http.response.start", "status": status, "headers": headers}


def body(data: bytes = b"", *, more: bool = False) -> Message:
    return {"type": "http.response.body", "body": data, "more_body": more}


def length(size: int) -> tuple[bytes, bytes]:
    return b"content-length", str(size).encode()


async def answer(send: Send, data: bytes = b"ok") -> None:
    await send(start(200, length(len(data))))
    await send(body(data))


@only_http
async def says_ok(scope: Scope, receive: Receive, send: Send) -> None:
    await answer(send)


# The scope


async def scope_of(request: bytes, **options: Any) -> Scope:
    """Return the scope in which an application sees a request."""
    seen = []

    @only_http
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(scope)
        await answer(send)

    async with serving(asgi(app, **options)) as site:
        assert (await site.ask(request))[0] == 200
    (scope,) = seen
    return scope


async def test_the_scope_has_what_the_specification_lists() -> None:
    seen: list[tuple[Scope, Any]] = []

    @only_http
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append((scope, scope.pop("client")))
        await answer(send)

    async with serving(app) as site:
        client = await site.connect()
        address = client.stdlib_socket.getsockname()
        await client.ask(get("/caf%C3%A9?q=%C3%A9&q=2", "Accept: a", "X-Two: 1", "accept: b"))
        port = site.port
    assert seen == [
        (
            {
                "type": "http",
                "asgi": {"version": "3.0", "spec_version": "2.4"},
                "http_version": "1.1",
                "method": "GET",
                "scheme": "http",
                "path": "/café",
                "raw_path": b"/caf%C3%A9",
                "query_string": b"q=%C3%A9&q=2",
                "root_path": "",
                "headers": [(b"host", b"localhost"), (b"accept", b"a"), (b"x-two", b"1"), (b"accept", b"b")],
                "server": (LOOPBACK, port),
                "state": {},
            },
            address,
        )
    ]


@pytest.mark.parametrize(
    ("target", "path", "raw_path", "query"),
    [
        ("/", "/", b"/", b""),
        ("/a%2Fb%20c", "/a/b c", b"/a%2Fb%20c", b""),
        ("/%ff", "/\ufffd", b"/%ff", b""),
        ("/100%?%zz", "/100%", b"/100%", b"%zz"),
        ("http://localhost/x?y=1", "/x", b"/x", b"y=1"),
        ("http://localhost", "/", b"/", b""),
    ],
)
async def test_the_path_is_decoded_and_the_raw_path_and_query_are_not(
    target: str, path: str, raw_path: bytes, query: bytes
) -> None:
    scope = await scope_of(get(target))
    assert (scope["path"], scope["raw_path"], scope["query_string"]) == (path, raw_path, query)


async def test_a_request_for_the_whole_server_has_a_star_for_its_path() -> None:
    scope = await scope_of(get("*", method="OPTIONS"))
    assert (scope["method"], scope["path"], scope["raw_path"]) == ("OPTIONS", "*", b"*")


async def test_root_path_stands_in_front_of_the_path() -> None:
    scope = await scope_of(get("/users"), root_path="/api/")
    assert (scope["root_path"], scope["path"], scope["raw_path"]) == ("/api", "/api/users", b"/users")


async def test_a_unix_socket_has_a_path_and_no_client(tmp_path: Path, bounded: None) -> None:
    seen: list[Scope] = []

    @only_http
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(scope)
        await answer(send)

    path = str(tmp_path / "socket")
    async with trio.open_nursery() as nursery:
        await nursery.start(partial(rawws.serve, echo, unix=path, http=asgi(app)))
        async with await trio.open_unix_socket(path) as stream:
            await stream.send_all(get())
            assert await stream.receive_some()
        nursery.cancel_scope.cancel()
    assert [(scope["client"], scope["server"]) for scope in seen] == [(None, (path, None))]


async def test_http_1_0_is_told() -> None:
    assert (await scope_of(get("/", version="1.0")))["http_version"] == "1.0"


async def test_context_variables_of_one_request_are_unknown_to_the_next_on_its_connection() -> None:
    user: contextvars.ContextVar[str] = contextvars.ContextVar("user", default="nobody")

    @only_http
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        before = user.get()
        user.set(scope["path"])
        await answer(send, before.encode())

    async with serving(app) as site:
        client = await site.connect()
        assert [(await client.ask(get(path))).body for path in ("/alice", "/bob")] == [b"nobody", b"nobody"]


# What it receives


async def test_a_request_without_a_body_is_one_empty_message_and_after_the_response_comes_a_disconnect() -> None:
    seen = []

    @only_http
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(await receive())
        await answer(send)
        seen.append(await receive())
        seen.append(await receive())

    async with serving(app) as site:
        client = await site.connect()
        for _ in range(2):
            assert (await client.ask(get())).body == b"ok"
    request = {"type": "http.request", "body": b"", "more_body": False}
    assert seen == [request, {"type": "http.disconnect"}, {"type": "http.disconnect"}] * 2


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


async def test_each_piece_of_a_body_is_received_when_it_comes() -> None:
    @only_http
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send(start())
        while (message := await receive())["more_body"]:
            await send(body(message["body"], more=True))
        assert message["body"] == b""
        await send(body())

    async with serving(app) as site:
        client = await site.connect()
        await client.send(get("/", "Transfer-Encoding: chunked", method="POST"))
        await client.until(b"\r\n\r\n")
        for piece in (b"one", b"two"):
            await client.send(chunk(piece))
            assert await client.until(b"\r\n" + piece + b"\r\n")  # before the next one is sent
        await client.send(chunk(b""))
        await client.until(b"0\r\n\r\n")
        assert await client.to_end() == b"", "its head went out before the request had ended, and said close"


async def test_a_client_that_waits_for_100_continue_is_told_when_the_application_reads() -> None:
    go_on = trio.Event()

    @only_http
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await go_on.wait()
        await answer(send, (await receive())["body"])

    async with serving(app) as site:
        client = await site.connect()
        await client.send(get("/", "Content-Length: 2", "Expect: 100-continue", method="POST"))
        await wait_all_tasks_blocked()
        with pytest.raises(BlockingIOError):
            client.stdlib_socket.recv(1)
        go_on.set()
        assert (await client.until(b"\r\n\r\n")).startswith(b"HTTP/1.1 100 ")
        await client.send(b"hi")
        assert (await client.answer()).body == b"hi"


async def test_an_application_may_send_from_several_tasks() -> None:
    @only_http
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send(start(200, length(16 * MIB)))
        async with trio.open_nursery() as nursery:
            for number in range(4):
                nursery.start_soon(send, body(bytes([number]) * 4 * MIB, more=True))
        await send(body())

    async with serving(app) as site:
        _, received = await site.ask(get())
    pieces = {received[start : start + 4 * MIB] for start in range(0, len(received), 4 * MIB)}
    assert pieces == {bytes([number]) * 4 * MIB for number in range(4)}, "each is whole"


async def test_an_upload_larger_than_what_a_plain_handler_may_get_is_for_the_application_to_limit() -> None:
    received = 0

    @only_http
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        nonlocal received
        while (message := await receive())["more_body"]:
            received += len(message["body"])
        await answer(send)

    async with serving(app) as site:
        await site.ask(get("/", f"Content-Length: {4 * MIB}", method="POST") + bytes(4 * MIB))
    assert received == 4 * MIB


async def test_a_body_that_is_not_chunked_as_it_says_is_a_disconnect_for_the_application_and_400_for_the_client(
    caplog: pytest.LogCaptureFixture,
) -> None:
    seen = []

    @only_http
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        while (message := await receive())["type"] == "http.request":
            pass
        seen.append(message)
        await answer(send)  # such as a framework's own 500; it must not stand in for the 400

    async with serving(app) as site:
        request = get("/", "Transfer-Encoding: chunked", method="POST")
        assert (await site.ask(request + chunk(b"one") + b"nonsense\r\n"))[0] == 400
    assert seen == [{"type": "http.disconnect"}]
    assert errors(caplog) == []


async def test_a_client_that_leaves_inside_its_body_is_a_disconnect_and_no_error(
    caplog: pytest.LogCaptureFixture,
) -> None:
    seen = []
    told = trio.Event()

    @only_http
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append((await receive())["body"])
        seen.append((await receive())["type"])
        told.set()

    async with serving(app) as site:
        client = await site.connect()
        await client.send(get("/", "Content-Length: 10", method="POST") + b"half")
        await wait_all_tasks_blocked()
        client.hang_up()
        await told.wait()
    assert seen == [b"half", "http.disconnect"]
    assert errors(caplog) == []


@pytest.mark.parametrize("leave", [Client.hang_up, Client.reset, Client.end_stream], ids=["FIN", "RST", "half-close"])
async def test_an_application_that_waits_for_the_disconnect_gets_it(
    leave: Callable[[Client], None], caplog: pytest.LogCaptureFixture
) -> None:
    waiting = trio.Event()
    told = trio.Event()

    @only_http
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        waiting.set()
        assert await receive() == {"type": "http.disconnect"}
        assert await receive() == {"type": "http.disconnect"}
        told.set()

    async with serving(app) as site:
        client = await site.connect()
        await client.send(get())
        await waiting.wait()
        leave(client)
        await told.wait()
    assert errors(caplog) == []


async def test_a_disconnect_is_seen_at_the_first_look_by_an_application_that_does_not_wait() -> None:
    looked: list[Message | None] = []
    look = trio.Event()
    seen = trio.Event()

    @only_http
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        async def look_now() -> None:
            message = None
            with trio.CancelScope() as scope:  # as Starlette's is_disconnected() does
                scope.cancel()
                message = await receive()
            looked.append(message)

        await receive()
        await look_now()
        await look.wait()
        await look_now()
        seen.set()

    async with serving(app) as site:
        client = await site.connect()
        await client.send(get())
        await wait_all_tasks_blocked()
        client.hang_up()
        look.set()
        await seen.wait()
    assert looked == [None, {"type": "http.disconnect"}]


async def test_tasks_that_wait_for_a_disconnect_are_told_when_another_one_completes_the_response() -> None:
    seen = []

    @only_http
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        async def wait() -> None:
            seen.append(await receive())

        await receive()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait)
            nursery.start_soon(wait)
            await wait_all_tasks_blocked()
            await answer(send)

    async with serving(app) as site:
        client = await site.connect()
        for _ in range(2):  # the second time with a connection that nobody else reads from any more
            assert (await client.ask(get())).body == b"ok"
    assert seen == [{"type": "http.disconnect"}] * 4


async def test_a_request_that_comes_while_the_application_waits_for_a_disconnect_is_the_next_one() -> None:
    @only_http
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        with trio.move_on_after(0.05):
            await receive()
        await answer(send, scope["raw_path"])

    async with serving(app) as site:
        client = await site.connect()
        await client.send(get("/1"))
        await wait_all_tasks_blocked()
        await client.send(get("/2") + get("/3"))
        assert [(await client.answer()).body for _ in range(3)] == [b"/1", b"/2", b"/3"]


# What it sends


async def test_a_length_is_kept_and_without_one_the_response_is_chunked() -> None:
    @only_http
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == "/length":
            await send(start(201, length(4), (b"set-cookie", b"a=1"), (b"set-cookie", b"b=2")))
        else:
            await send(start(201))
        await send(body(b"ab", more=True))
        await send(body(b"cd"))

    async with serving(app) as site:
        client = await site.connect()
        await client.send(get("/length"))
        head = await client.until(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 201 Created\r\n")
        assert b"content-length: 4\r\nset-cookie: a=1\r\nset-cookie: b=2\r\n" in head
        assert await client.until(b"cd") == b"abcd"
        await client.send(get("/chunked"))
        assert b"transfer-encoding: chunked" in (await client.until(b"\r\n\r\n")).lower()
        assert await client.until(b"0\r\n\r\n") == chunk(b"ab") + chunk(b"cd") + chunk(b"")


async def test_http_1_0_gets_a_response_that_ends_with_the_connection() -> None:
    @only_http
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send(start())
        await send(body(b"ab", more=True))
        await send(body(b"cd"))

    async with serving(app) as site:
        client = await site.connect()
        await client.send(get(version="1.0"))
        assert (await client.to_end()).endswith(b"\r\n\r\nabcd")


async def test_a_transfer_encoding_of_the_application_is_ignored() -> None:
    @only_http
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send(start(200, length(2), (b"transfer-encoding", b"chunked")))
        await send(body(b"ok"))

    async with serving(app) as site:
        answered = await (await site.connect()).ask(get())
        assert "transfer-encoding" not in answered.headers
        assert answered.body == b"ok"


async def test_headers_and_body_may_be_left_out() -> None:
    @only_http
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 204})
        await send({"type": "http.response.body"})

    async with serving(app) as site:
        client = await site.connect()
        assert [(await client.ask(get())).status for _ in range(2)] == [204, 204]


async def test_head_is_answered_with_the_head_alone() -> None:
    async with serving(says_ok) as site:
        client = await site.connect()
        answered = await client.ask(get(method="HEAD"))
        assert (answered.status, answered.headers["content-length"], answered.body) == (200, "2", b"")
        assert (await client.ask(get())).body == b"ok"


async def test_an_endless_stream_ends_early_for_a_head(caplog: pytest.LogCaptureFixture) -> None:
    stopped = []

    @only_http
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send(start())
        try:
            while True:
                await send(body(b"tick", more=True))
                await trio.lowlevel.checkpoint()
        except OSError as error:
            stopped.append(str(error))
            raise

    async with serving(app) as site:
        client = await site.connect()
        for _ in range(2):
            assert (await client.ask(get(method="HEAD"))).status == 200
        await wait_all_tasks_blocked()
    assert stopped == ["a HEAD is answered without a body; there is nothing to stream to"] * 2
    assert errors(caplog) == []


async def test_an_event_stream_opens_before_its_first_event() -> None:
    event = trio.Event()

    @only_http
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send(start(200, (b"content-type", b"text/event-stream")))
        await event.wait()
        await send(body(b"data: 1\n\n"))

    async with serving(app) as site:
        client = await site.connect()
        await client.send(get())
        assert b"text/event-stream" in await client.until(b"\r\n\r\n")
        event.set()
        assert b"data: 1" in await client.until(b"0\r\n\r\n")


async def test_sending_waits_for_a_client_that_does_not_read() -> None:
    sent = 0

    @only_http
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        nonlocal sent
        await send(start(200, length(64 * MIB)))
        for _ in range(64):
            await send(body(bytes(MIB), more=True))
            sent += 1
        await send(body())

    async with serving(app) as site:
        client = await site.connect()
        await client.send(get())
        await wait_all_tasks_blocked()
        assert sent < 32, "the kernel doesn't hold this much for one connection"
        await client.until(b"\r\n\r\n")
        missing = 64 * MIB - len(client._unread)
        client._unread.clear()
        while missing:
            missing -= await client.receive_some()
    assert sent == 64


async def test_a_stream_to_a_fast_client_leaves_others_their_turn() -> None:
    turns = 0

    @only_http
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        nonlocal turns

        async def count() -> None:
            nonlocal turns
            while True:
                await trio.lowlevel.checkpoint()
                turns += 1

        await send(start())
        async with trio.open_nursery() as nursery:
            nursery.start_soon(count)
            for _ in range(100):
                await send(body(b".", more=True))
            nursery.cancel_scope.cancel()
        await send(body())

    async with serving(app) as site:
        client = await site.connect()
        await client.send(get())
        await client.until(b"0\r\n\r\n")
    assert turns > 50


async def no_start(send: Send) -> None:
    await send(body())


async def two_starts(send: Send) -> None:
    await send(start(200, length(2)))
    await send(start(200, length(2)))


async def a_push(send: Send) -> None:
    await send({"type": "http.response.push", "path": "/"})


async def no_type(send: Send) -> None:
    await send({})


async def text_body(send: Send) -> None:
    await send(start(200, length(2)))
    await send({"type": "http.response.body", "body": "ok"})


async def text_headers(send: Send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [("a", "b")]})


async def a_line_end_in_a_header(send: Send) -> None:
    await send(start(200, (b"x", b"a\r\nset-cookie: b")))


async def no_such_status(send: Send) -> None:
    await send(start(999))


async def an_informational_status(send: Send) -> None:
    await send(start(103))


@pytest.mark.parametrize(
    ("misuse", "sentence"),
    [
        (no_start, "the ASGI application has sent http.response.body before http.response.start"),
        (two_starts, "the ASGI application has sent http.response.start twice"),
        (a_push, "an ASGI application can't send 'http.response.push' in answer to an HTTP request"),
        (no_type, "an ASGI application can't send None in answer to an HTTP request"),
        (text_body, "the body of http.response.body is to be bytes, not str"),
        (text_headers, "the ASGI application's header 'a': 'b' is to be two byte strings"),
        (a_line_end_in_a_header, "the ASGI application's response can't be sent: "),
        (no_such_status, "999 is not an HTTP status"),
        (an_informational_status, "the ASGI application's response can't be sent: "),
    ],
)
async def test_an_application_that_sends_what_it_can_not_is_told_and_the_client_gets_500(
    misuse: Callable[[Send], Awaitable[None]], sentence: str, caplog: pytest.LogCaptureFixture
) -> None:
    @only_http
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await misuse(send)

    async with serving(app) as site:
        assert (await site.ask(get()))[0] == 500
    error = the_error(caplog)
    assert isinstance(error, UsageError)
    assert str(error).startswith(sentence)


@pytest.mark.parametrize(("sent", "kind"), [(b"much too long", "more"), (b"s", "less")])
async def test_a_body_of_another_length_than_was_announced_is_cut(
    sent: bytes, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    @only_http
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send(start(200, length(4)))
        await send(body(sent))

    async with serving(app) as site:
        client = await site.connect()
        await client.send(get())
        _, _, arrived = (await client.to_end()).partition(b"\r\n\r\n")
        assert len(arrived) < 4, kind
    assert isinstance(the_error(caplog), UsageError)
    assert "declared Content-Length" in str(the_error(caplog))


async def test_what_is_sent_after_the_end_is_ignored_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    @only_http
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await answer(send)
        await send(body(b"more"))
        await send(start(500))

    async with serving(app) as site:
        client = await site.connect()
        for _ in range(2):
            assert (await client.ask(get("/path"))).body == b"ok"
    warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert len(warnings) == 4
    assert "sent http.response.body after the end of its response to /path; ignored" in warnings[0]


# What goes wrong


async def test_an_application_that_returns_without_a_response_is_500(caplog: pytest.LogCaptureFixture) -> None:
    @only_http
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        pass

    async with serving(app) as site:
        client = await site.connect()
        assert (await client.ask(get())).status == 500
        assert (await client.ask(get())).status == 500  # the connection is kept
    assert len(errors(caplog)) == 2
    assert "returned without a response" in caplog.text


@pytest.mark.parametrize("error", [KeyError("mine"), ConnectionRefusedError("the database"), FileNotFoundError("file")])
async def test_an_application_that_raises_is_500_and_one_traceback(
    error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    """Its own OSError, too, which must not pass for the client's."""

    @only_http
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        raise error

    async with serving(app) as site:
        client = await site.connect()
        assert (await client.ask(get())).status == 500
    seen = the_error(caplog)
    assert error in (seen, seen.__cause__)


async def test_an_application_that_raises_between_head_and_body_is_500(caplog: pytest.LogCaptureFixture) -> None:
    @only_http
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send(start(200, length(2)))
        raise KeyError("mine")

    async with serving(app) as site:
        assert (await site.ask(get()))[0] == 500
    assert isinstance(the_error(caplog), KeyError)


@pytest.mark.parametrize("raises", [True, False], ids=["raises", "returns"])
async def test_an_application_that_stops_inside_its_response_has_the_connection_cut(
    raises: bool, caplog: pytest.LogCaptureFixture
) -> None:
    @only_http
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send(start())
        await send(body(b"half", more=True))
        if raises:
            raise KeyError("mine")

    async with serving(app) as site:
        client = await site.connect()
        await client.send(get())
        assert (await client.to_end()).endswith(chunk(b"half"))
    expected = "'mine'" if raises else "the ASGI application returned before its response was complete"
    assert str(the_error(caplog)) == expected


async def test_an_application_that_raises_behind_its_response_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    @only_http
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await answer(send)
        raise KeyError("mine")

    async with serving(app) as site:
        client = await site.connect()
        assert (await client.ask(get("/path"))).body == b"ok"
        assert (await client.ask(get("/path"))).body == b"ok"
    assert [record.getMessage().partition(" ! ")[2] for record in errors(caplog)] == [
        "the ASGI application failed at /path after it had answered"
    ] * 2


@pytest.mark.parametrize("leave", [Client.hang_up, Client.reset], ids=["FIN", "RST"])
async def test_sending_to_a_client_that_has_gone_raises_an_oserror_and_is_no_error(
    leave: Callable[[Client], None], caplog: pytest.LogCaptureFixture
) -> None:
    tick = trio.Event()
    raised: list[OSError] = []
    stopped = trio.Event()

    @only_http
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send(start())
        await tick.wait()
        try:
            while True:
                await send(body(b"tick", more=True))
                await trio.lowlevel.checkpoint()
        except OSError as error:
            raised.append(error)
            with pytest.raises(OSError, match="the client has gone"):
                await send(body())
            raise
        finally:
            stopped.set()

    async with serving(app) as site:
        client = await site.connect()
        await client.send(get())
        await client.until(b"\r\n\r\n")
        leave(client)
        tick.set()
        await stopped.wait()
    assert [type(error).__name__ for error in raised] == ["ClientDisconnected"]
    assert errors(caplog) == []


async def test_a_client_that_leaves_an_application_of_several_tasks_is_no_error(
    caplog: pytest.LogCaptureFixture,
) -> None:
    left = trio.Event()
    stopped = trio.Event()

    @only_http
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        async def stream() -> None:
            while True:
                await send(body(b"tick", more=True))
                await trio.lowlevel.checkpoint()

        await send(start())
        await left.wait()
        try:
            async with trio.open_nursery() as nursery:  # which makes a group of what they raise
                nursery.start_soon(stream)
                nursery.start_soon(stream)
        finally:
            stopped.set()

    async with serving(app) as site:
        client = await site.connect()
        await client.send(get())
        await client.until(b"\r\n\r\n")
        client.reset()
        left.set()
        await stopped.wait()
        await wait_all_tasks_blocked()
    assert errors(caplog) == []


async def test_a_bug_met_while_cleaning_up_after_a_client_that_left_is_an_error_all_the_same(
    caplog: pytest.LogCaptureFixture,
) -> None:
    left = trio.Event()
    stopped = trio.Event()

    @only_http
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send(start())
        await left.wait()
        try:
            while True:
                await send(body(b"tick", more=True))
                await trio.lowlevel.checkpoint()
        except OSError:
            stopped.set()
            raise KeyError("mine") from None

    async with serving(app) as site:
        client = await site.connect()
        await client.send(get())
        await client.until(b"\r\n\r\n")
        client.reset()
        left.set()
        await stopped.wait()
        await wait_all_tasks_blocked()
    assert isinstance(the_error(caplog), KeyError)


async def test_a_client_that_has_only_ended_its_own_side_still_gets_all_of_the_stream() -> None:
    @only_http
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        assert (await receive())["type"] == "http.disconnect"
        await send(start())
        for _ in range(3):
            await send(body(b"tick", more=True))
        await send(body())

    async with serving(app) as site:
        client = await site.connect()
        await client.send(get())
        client.end_stream()
        assert (await client.to_end()).endswith(chunk(b"tick") * 3 + chunk(b""))


async def test_a_server_that_is_cancelled_ends_with_requests_under_way(bounded: None) -> None:
    begun = trio.Event()
    cleaned_up = []

    @only_http
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        begun.set()
        try:
            await trio.sleep_forever()
        finally:
            cleaned_up.append(True)

    async with trio.open_nursery() as nursery:
        server = await nursery.start(partial(rawws.serve, echo, 0, host=LOOPBACK, http=asgi(app)))
        with trio.socket.socket() as client:
            await client.connect((LOOPBACK, server.port))
            await client.send(get())
            await begun.wait()
            nursery.cancel_scope.cancel()
    assert cleaned_up == [True]


# In the background


async def test_the_next_request_does_not_wait_for_what_goes_on_behind_a_response() -> None:
    release = trio.Event()
    done = []

    @only_http
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await answer(send)
        if scope["path"] == "/1":
            await release.wait()
            done.append(scope["path"])

    async with serving(app) as site:
        client = await site.connect()
        assert (await client.ask(get("/1"))).body == b"ok"
        assert (await client.ask(get("/2"))).body == b"ok"
        assert done == []
        client.hang_up()
        release.set()
    assert done == ["/1"], "an orderly end waits for it"


async def test_what_goes_on_in_the_background_has_a_bounded_time_at_the_end(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rawws.asgi_app._GRACE_S", 0.05)

    @only_http
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await answer(send)
        await trio.sleep_forever()

    async with serving(app) as site:
        await site.ask(get())
    (record,) = errors(caplog, "rawws.server")
    assert "in the background took over 0.05 s; cancelled" in record.getMessage()


# The lifespan


class Life:
    """An application with a lifespan, which writes down what happens to it."""

    def __init__(self) -> None:
        self.events: list[str] = []
        self.state: list[dict[str, Any]] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            self.events.append("request")
            self.state.append(dict(scope["state"]))
            scope["state"]["mine"] = True
            scope["state"]["shared"].append(scope["path"])
            await answer(send)
            return
        assert scope["asgi"] == {"version": "3.0", "spec_version": "2.0"}
        scope["state"]["shared"] = []
        await self.start(receive, send)
        await self.stop(receive, send)

    async def start(self, receive: Receive, send: Send) -> None:
        self.events.append((await receive())["type"])
        await send({"type": "lifespan.startup.complete"})

    async def stop(self, receive: Receive, send: Send) -> None:
        self.events.append((await receive())["type"])
        await trio.lowlevel.checkpoint()
        self.events.append("cleaned up")
        await send({"type": "lifespan.shutdown.complete"})
        await trio.lowlevel.checkpoint()
        self.events.append("returned")


async def test_the_lifespan_brackets_the_requests_and_each_has_its_copy_of_the_state() -> None:
    app = Life()
    async with serving(app) as site:
        client = await site.connect()
        await client.ask(get("/1"))
        await client.ask(get("/2"))
    ended = ["lifespan.shutdown", "cleaned up", "returned"]
    assert app.events == ["lifespan.startup", "request", "request", *ended]
    assert app.state == [{"shared": ["/1", "/2"]}] * 2  # shallow copies


async def test_the_server_listens_when_the_application_has_started(bounded: None) -> None:
    go_on = trio.Event()

    class Slow(Life):
        async def start(self, receive: Receive, send: Send) -> None:
            await receive()
            await go_on.wait()
            await send({"type": "lifespan.startup.complete"})

    listeners = await open_listeners(LOOPBACK, 0)
    port = listeners[0].getsockname()[1]
    for listener in listeners:
        listener.close()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(partial(rawws.serve, echo, port, host=LOOPBACK, http=asgi(Slow())))
        await wait_all_tasks_blocked()
        with pytest.raises(OSError, match="all attempts to connect"):
            await trio.open_tcp_stream(LOOPBACK, port)
        go_on.set()
        await wait_all_tasks_blocked()
        async with await trio.open_tcp_stream(LOOPBACK, port):
            pass
        nursery.cancel_scope.cancel()


async def serve_once(app: App, lifespan: Any = "auto") -> tuple[int, bytes]:
    async with serving(asgi(app, lifespan=lifespan)) as site:
        return await site.ask(get())


class FailsToStart(Life):
    def __init__(self, message: str, *, raises: bool) -> None:
        super().__init__()
        self.message = message
        self.raises = raises

    async def start(self, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "lifespan.startup.failed", "message": self.message})
        if self.raises:
            raise KeyError("its reason")
        await receive()  # as one that goes round in a loop


@pytest.mark.parametrize("lifespan", ["auto", "on"])
@pytest.mark.parametrize("raises", [True, False])
@pytest.mark.parametrize(
    ("message", "sentence"),
    [
        ("no database", "the ASGI application can't start: no database"),
        ("Traceback:\nno database\n", "the ASGI application can't start:\nTraceback:\nno database"),
        ("", "the ASGI application can't start: it doesn't say why"),
    ],
    ids=["message", "traceback", "nothing"],
)
async def test_an_application_that_fails_to_start_makes_serve_raise_its_message(
    message: str, sentence: str, raises: bool, lifespan: Any, bounded: None
) -> None:
    app = FailsToStart(message, raises=raises)
    with pytest.raises(UsageError) as caught:
        await rawws.serve(echo, 0, host=LOOPBACK, http=asgi(app, lifespan=lifespan))
    assert str(caught.value) == sentence
    assert isinstance(caught.value.__cause__, KeyError) is raises
    assert app.events == []


async def knows_no_lifespan(scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] != "http":
        raise ValueError("only HTTP here")
    await answer(send)


async def passes_over_the_lifespan(scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "http":
        await answer(send)


async def refuses_it_after_listening(scope: Scope, receive: Receive, send: Send) -> None:
    if (await receive())["type"] != "http.request":
        raise ValueError("only HTTP here")
    await answer(send)


NO_LIFESPAN = pytest.mark.parametrize(
    ("app", "why"),
    [
        (knows_no_lifespan, "ValueError: only HTTP here"),
        (passes_over_the_lifespan, "it returned"),
        (refuses_it_after_listening, "ValueError: only HTTP here"),
    ],
)


@NO_LIFESPAN
async def test_auto_serves_an_application_that_knows_no_lifespan_and_says_so(
    app: App, why: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    assert await serve_once(app) == (200, b"ok")
    told = f"the ASGI application has no lifespan, so it isn't told of startup and shutdown: {why}"
    assert any(told in record.getMessage() for record in caplog.records)
    assert errors(caplog) == errors(caplog, "rawws.server") == []


@NO_LIFESPAN
async def test_on_wants_a_lifespan(app: App, why: str, bounded: None) -> None:
    with pytest.raises(UsageError) as caught:
        await rawws.serve(echo, 0, host=LOOPBACK, http=asgi(app, lifespan="on"))
    assert str(caught.value) == (
        f"the ASGI application doesn't answer lifespan.startup, which lifespan='on' asks for: {why}"
    )


async def test_off_does_not_call_it_for_a_lifespan() -> None:
    seen = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(scope["type"])
        await answer(send)

    assert await serve_once(app, "off") == (200, b"ok")
    assert seen == ["http"]


async def test_an_application_that_needs_asyncio_is_told_apart(bounded: None) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        raise RuntimeError("no running event loop")

    with pytest.raises(UsageError, match="rawws runs on trio"):
        await rawws.serve(echo, 0, host=LOOPBACK, http=asgi(app, lifespan="on"))


class FailsToStop(Life):
    def __init__(self, *, message: str | None, raises: bool) -> None:
        super().__init__()
        self.message = message
        self.raises = raises

    async def stop(self, receive: Receive, send: Send) -> None:
        await receive()
        if self.message is not None:
            await send({"type": "lifespan.shutdown.failed", "message": self.message})
        if self.raises:
            raise KeyError("its reason")


@pytest.mark.parametrize(
    ("message", "raises", "logged"),
    [
        ("still busy", False, "the ASGI application failed to shut down: still busy"),
        ("still busy", True, "the ASGI application's lifespan failed"),
        (None, True, "the ASGI application's lifespan failed"),
    ],
)
async def test_an_application_that_fails_to_stop_is_logged_once(
    message: str | None, raises: bool, logged: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(FailsToStop(message=message, raises=raises)) as site:
        await site.ask(get())
    (record,) = errors(caplog, "rawws.server")
    assert record.getMessage() == f"#0 ! {logged}"
    assert bool(record.exc_info) is raises


async def test_a_lifespan_that_fails_on_the_way_is_logged_and_the_server_goes_on(
    caplog: pytest.LogCaptureFixture,
) -> None:
    fail = trio.Event()

    class FailsOnTheWay(Life):
        async def stop(self, receive: Receive, send: Send) -> None:
            await fail.wait()
            raise KeyError("its task")

    async with serving(FailsOnTheWay()) as site:
        fail.set()
        await wait_all_tasks_blocked()
        assert [record.getMessage() for record in errors(caplog, "rawws.server")] == [
            "#0 ! the ASGI application's lifespan failed"
        ]
        assert await site.ask(get()) == (200, b"ok")


async def test_an_application_cleans_up_also_when_its_server_is_cancelled(bounded: None) -> None:
    app = Life()
    async with trio.open_nursery() as nursery:
        await nursery.start(partial(rawws.serve, echo, 0, host=LOOPBACK, http=asgi(app)))
        nursery.cancel_scope.cancel()
    assert app.events == ["lifespan.startup", "lifespan.shutdown", "cleaned up", "returned"]


async def test_an_application_that_does_not_end_is_cancelled_after_a_while(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, bounded: None
) -> None:
    monkeypatch.setattr("rawws.asgi_app._GRACE_S", 0.05)

    class NeverEnds(Life):
        async def stop(self, receive: Receive, send: Send) -> None:
            await receive()
            await trio.sleep_forever()

    async with trio.open_nursery() as nursery:
        await nursery.start(partial(rawws.serve, echo, 0, host=LOOPBACK, http=asgi(NeverEnds())))
        nursery.cancel_scope.cancel()
    (record,) = errors(caplog, "rawws.server")
    assert "did not end within 0.05 seconds of shutdown; cancelled" in record.getMessage()


async def test_cancelling_while_an_application_starts_does_not_wait_for_it(bounded: None) -> None:
    class NeverStarts(Life):
        async def start(self, receive: Receive, send: Send) -> None:
            await trio.sleep_forever()

    with trio.move_on_after(0.05) as scope:
        await rawws.serve(echo, 0, host=LOOPBACK, http=asgi(NeverStarts()))
    assert scope.cancelled_caught


async def test_what_else_serve_raises_comes_as_it_is_and_the_application_is_shut_down(bounded: None) -> None:
    app = Life()
    (taken,) = await open_listeners(LOOPBACK, 0)
    with taken, pytest.raises(ListenError):
        await rawws.serve(echo, taken.getsockname()[1], host=LOOPBACK, http=asgi(app))
    assert app.events[-1] == "returned"


async def test_a_strange_lifespan_message_is_refused(caplog: pytest.LogCaptureFixture) -> None:
    class Strange(Life):
        async def stop(self, receive: Receive, send: Send) -> None:
            await receive()
            with pytest.raises(UsageError, match=r"can't send 'lifespan\.pause' in its lifespan"):
                await send({"type": "lifespan.pause"})

    async with serving(Strange()):
        pass
    assert errors(caplog, "rawws.server") == []


# Making one


async def test_what_is_no_application_is_one_sentence() -> None:
    with pytest.raises(UsageError, match="is to be callable; this is of type str"):
        asgi("main:app")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="there is no lifespan 'maybe'; give 'auto', 'on' or 'off'"):
        asgi(says_ok, lifespan="maybe")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match=r"begin with a slash, such as /api; 'api' doesn't"):
        asgi(says_ok, root_path="api")


async def test_one_is_for_one_server() -> None:
    http = asgi(says_ok)
    async with serving(http):
        with pytest.raises(UsageError, match="is for one server"):
            await rawws.serve(echo, 0, host=LOOPBACK, http=http)
    async with serving(http) as site:  # one after the other is fine
        assert await site.ask(get()) == (200, b"ok")


async def test_it_answers_only_within_its_lifespan() -> None:
    nobody: Any = None
    with pytest.raises(UsageError, match=r"only while its lifespan\(\) is entered"):
        await asgi(says_ok).serve_exchange(nobody)


async def test_a_websocket_is_served_beside_it_on_the_same_port() -> None:
    async with serving(says_ok) as site:
        websocket = await (await site.connect()).open("/room")
        assert await site.ask(get("/room")) == (200, b"ok")
        await websocket.send(text("hello"))
        assert await websocket.frame() == seen_text("hello")


# load_app


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Writes the module ``its_app`` into the current directory, which isn't on the path yet."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry not in ("", str(tmp_path))])
    monkeypatch.delitem(sys.modules, "its_app", raising=False)

    def write(source: str) -> None:
        (tmp_path / "its_app.py").write_text(source)

    return write


APP_SOURCE = """
async def app(scope, receive, send): ...
def create(): return app
def broken(): return None
class Site: app = app
version = "1"
"""


@pytest.mark.parametrize("name", ["its_app:app", "its_app:Site.app", "its_app:create()"])
async def test_an_application_is_loaded_from_the_current_directory(name: str, module: Callable[[str], None]) -> None:
    module(APP_SOURCE)
    for _ in range(2):
        assert getattr(load_app(name), "__name__", "") == "app"
    assert sys.path.count(os.getcwd()) == 1


NOT_A_NAME = "doesn't name an application; give module:attribute, such as main:app"


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("its_app", f"'its_app' {NOT_A_NAME}"),
        ("", f"'' {NOT_A_NAME}"),
        (":app", f"':app' {NOT_A_NAME}"),
        ("its_app:", f"'its_app:' {NOT_A_NAME}"),
        (".its_app:app", f"'.its_app:app' {NOT_A_NAME}"),
        ("./its_app.py:app", f"'./its_app.py:app' {NOT_A_NAME}"),
        ("its_app:app,x", f"'its_app:app,x' {NOT_A_NAME}"),
        (
            "no_such:app",
            "there is no module 'no_such', which 'no_such:app' names, in the current directory or among the "
            "installed packages",
        ),
        ("its_app:none", "the module 'its_app' has no 'none', which 'its_app:none' names"),
        ("its_app:Site.none", "the module 'its_app' has no 'Site.none', which 'its_app:Site.none' names"),
        ("its_app:version", "'its_app:version' is of type str; an ASGI application is to be callable"),
        ("its_app:broken()", "'its_app:broken()' is of type NoneType; an ASGI application is to be callable"),
    ],
)
async def test_what_can_not_be_loaded_is_one_sentence(name: str, sentence: str, module: Callable[[str], None]) -> None:
    module(APP_SOURCE)
    with pytest.raises(UsageError) as caught:
        load_app(name)
    assert str(caught.value) == sentence


@pytest.mark.parametrize(
    ("source", "error"),
    [("import no_such_thing", ModuleNotFoundError), ("1 / 0", ZeroDivisionError), ("app = (", SyntaxError)],
)
async def test_what_the_module_raises_comes_as_it_is(
    source: str, error: type[Exception], module: Callable[[str], None]
) -> None:
    module(source)
    with pytest.raises(error):
        load_app("its_app:app")


# Starlette and FastAPI, on trio


@pytest.fixture
def frameworks() -> None:
    for name in ("starlette", "fastapi", "httpx"):
        need(find_spec(name), f"{name} (pip install {name})")


WITH_FRAMEWORKS = pytest.mark.usefixtures("frameworks")


@contextlib.asynccontextmanager
async def browsing(app: App | AsgiApp, **options: Any) -> AsyncIterator[httpx.AsyncClient]:
    """Serve an application, and have httpx talk to it."""
    async with serving(app, **options) as site, httpx.AsyncClient(base_url=site.url, trust_env=False) as client:
        yield client


def site_of(*routes: tuple[str, Any], **options: Any) -> Starlette:
    return Starlette(routes=[Route(path, endpoint, methods=["GET", "POST"]) for path, endpoint in routes], **options)


@WITH_FRAMEWORKS
async def test_starlette_answers_ordinary_requests() -> None:
    async def hello(request: starlette.requests.Request) -> Response:
        return JSONResponse({"query": request.query_params.getlist("q"), "name": request.path_params["name"]})

    async def add(request: starlette.requests.Request) -> Response:
        return JSONResponse({"sum": sum((await request.json())["terms"])})

    async with browsing(site_of(("/hello/{name}", hello), ("/add", add))) as client:
        answered = await client.get("/hello/Zoë", params={"q": ["a", "é"]})
        assert answered.json() == {"query": ["a", "é"], "name": "Zoë"}
        assert (await client.post("/add", json={"terms": [1, 2, 3]})).json() == {"sum": 6}
        assert (await client.head("/hello/you")).status_code == 200
        missing = await client.get("/missing")
        assert (missing.status_code, missing.text) == (404, "Not Found")
        assert (await client.put("/add")).status_code == 405


@WITH_FRAMEWORKS
@pytest.mark.parametrize("layers", [0, 2])
async def test_starlette_streams_an_upload_back(layers: int) -> None:
    """Each piece comes back before the next one is sent. With middleware, which has task groups, too."""

    class PassesOn(starlette.middleware.base.BaseHTTPMiddleware):
        async def dispatch(self, request: starlette.requests.Request, call_next: Any) -> Response:
            response: Response = await call_next(request)
            response.headers["x-layer"] = "yes"
            return response

    async def echo_back(request: starlette.requests.Request) -> Response:
        return StreamingResponse(request.stream())

    app = site_of(("/", echo_back))
    for _ in range(layers):
        app.add_middleware(PassesOn)
    async with serving(app) as site:
        client = await site.connect()
        await client.send(get("/", "Transfer-Encoding: chunked", method="POST"))
        await client.send(chunk(b"first"))
        assert (b"x-layer" in await client.until(b"first\r\n")) is bool(layers)
        for number in range(100):
            await client.send(chunk(b"%03d" % number * 1000))
            await client.until(b"%03d\r\n" % number)
        await client.send(chunk(b""))
        await client.until(b"0\r\n\r\n")


@WITH_FRAMEWORKS
async def test_httpx_uploads_and_downloads_megabytes_in_pieces() -> None:
    """One after the other: httpx doesn't read before it has written everything."""
    uploaded = b""

    async def pieces() -> AsyncIterator[bytes]:
        for number in range(64):
            yield bytes([number]) * 65536

    async def keep(request: starlette.requests.Request) -> Response:
        nonlocal uploaded
        if request.method == "GET":
            return StreamingResponse(pieces())
        uploaded = b"".join([piece async for piece in request.stream()])
        return Response(status_code=204)

    expected = b"".join([piece async for piece in pieces()])
    async with browsing(site_of(("/", keep))) as client:
        assert (await client.post("/", content=pieces())).status_code == 204
        assert uploaded == expected
        assert (await client.get("/")).content == expected


@WITH_FRAMEWORKS
async def test_a_stream_stops_when_its_client_leaves(caplog: pytest.LogCaptureFixture) -> None:
    stopped = trio.Event()

    class Ticks:  # no generator: Starlette leaves those to the garbage collector, of which trio warns
        def __aiter__(self) -> Ticks:
            return self

        async def __anext__(self) -> bytes:
            await trio.sleep(0.001)
            return b"tick"

    async def stream(request: starlette.requests.Request) -> Response:
        return StreamingResponse(Ticks())

    app = site_of(("/", stream))

    @only_http
    async def watched(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await app(scope, receive, send)
        finally:
            stopped.set()

    async with serving(watched) as site:
        client = await site.connect()
        await client.send(get())
        await client.until(b"tick")
        client.hang_up()
        await stopped.wait()
        await wait_all_tasks_blocked()
    assert errors(caplog) == []


@WITH_FRAMEWORKS
async def test_is_disconnected_works(caplog: pytest.LogCaptureFixture) -> None:
    answers: list[bool] = []
    stopped = trio.Event()

    async def watch(request: starlette.requests.Request) -> Response:
        await request.body()
        while not answers or not answers[-1]:
            answers.append(await request.is_disconnected())
            await trio.sleep(0.001)
        stopped.set()
        return PlainTextResponse("too late")

    async with serving(site_of(("/", watch))) as site:
        client = await site.connect()
        await client.send(get())
        await wait_all_tasks_blocked()
        client.hang_up()
        await stopped.wait()
    assert answers[0] is False
    assert errors(caplog) == []


@WITH_FRAMEWORKS
async def test_a_client_that_leaves_inside_its_upload_is_no_error(caplog: pytest.LogCaptureFixture) -> None:
    stopped = trio.Event()

    async def read(request: starlette.requests.Request) -> Response:
        try:
            return Response(await request.body())
        finally:
            stopped.set()

    async with serving(site_of(("/", read))) as site:
        client = await site.connect()
        await client.send(get("/", "Content-Length: 10", method="POST") + b"half")
        await wait_all_tasks_blocked()
        client.hang_up()
        await stopped.wait()
        await wait_all_tasks_blocked()
    assert errors(caplog) == []


@WITH_FRAMEWORKS
async def test_an_endpoint_that_raises_is_500_with_one_traceback(caplog: pytest.LogCaptureFixture) -> None:
    async def broken(request: starlette.requests.Request) -> Response:
        raise KeyError("mine")

    async with browsing(site_of(("/", broken))) as client:
        answered = await client.get("/")
        assert (answered.status_code, answered.text) == (500, "Internal Server Error")
    assert isinstance(the_error(caplog), KeyError)


@WITH_FRAMEWORKS
async def test_a_stream_that_raises_is_cut(caplog: pytest.LogCaptureFixture) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        yield b"half"
        raise KeyError("mine")

    async def stream(request: starlette.requests.Request) -> Response:
        return StreamingResponse(pieces())

    async with browsing(site_of(("/", stream))) as client:
        with pytest.raises(httpx.RemoteProtocolError, match="incomplete chunked read"):
            await client.get("/")
    assert isinstance(the_error(caplog), KeyError)


@WITH_FRAMEWORKS
async def test_background_tasks_run_behind_the_response() -> None:
    release = trio.Event()
    done = trio.Event()

    async def later() -> None:
        await release.wait()
        done.set()

    async def respond(request: starlette.requests.Request) -> Response:
        return PlainTextResponse("ok", background=starlette.background.BackgroundTask(later))

    async with browsing(site_of(("/", respond))) as client:
        assert (await client.get("/")).text == "ok"
        assert (await client.get("/missing")).status_code == 404
        assert not done.is_set()
        release.set()
        await done.wait()


@WITH_FRAMEWORKS
async def test_the_state_of_starlettes_lifespan_reaches_its_requests() -> None:
    events = []

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[dict[str, Any]]:
        async with trio.open_nursery() as nursery:  # as an application does that has tasks of its own
            nursery.start_soon(trio.sleep_forever)
            events.append("up")
            yield {"greeting": "hello"}
            await trio.lowlevel.checkpoint()
            events.append("down")
            nursery.cancel_scope.cancel()

    async def greet(request: starlette.requests.Request) -> Response:
        return PlainTextResponse(request.state.greeting)

    async with browsing(site_of(("/", greet), lifespan=lifespan)) as client:
        assert (await client.get("/")).text == "hello"
        assert events == ["up"]
    assert events == ["up", "down"]


@WITH_FRAMEWORKS
async def test_a_starlette_that_fails_to_start_says_why(bounded: None) -> None:
    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        raise RuntimeError("no database")
        yield

    with pytest.raises(UsageError, match="RuntimeError: no database") as caught:
        await rawws.serve(echo, 0, host=LOOPBACK, http=asgi(site_of(lifespan=lifespan)))
    assert isinstance(caught.value.__cause__, RuntimeError)


@WITH_FRAMEWORKS
async def test_fastapi_answers_beside_a_websocket_on_the_same_port() -> None:
    app = fastapi.FastAPI()
    seen: list[str] = []

    async def who(x_user: str = fastapi.Header()) -> str:
        return x_user

    @app.get("/items/{item}")
    async def item(item: int, user: str = fastapi.Depends(who)) -> dict[str, Any]:
        return {"item": item, "user": user}

    @app.post("/add")
    async def add(terms: list[int], background: fastapi.BackgroundTasks) -> int:
        background.add_task(seen.append, "added")
        return sum(terms)

    @app.get("/thread")
    def thread() -> bool:  # a plain function runs in a thread
        return threading.current_thread() is threading.main_thread()

    @app.get("/sync-stream")
    def sync_stream() -> StreamingResponse:
        return StreamingResponse(b"%d" % number for number in range(10))

    async with serving(app) as site, httpx.AsyncClient(base_url=site.url, trust_env=False) as client:
        websocket = await (await site.connect()).open("/items/1")
        answered = await client.get("/items/7", headers={"X-User": "me"})
        assert answered.json() == {"item": 7, "user": "me"}
        assert (await client.get("/items/seven", headers={"X-User": "me"})).status_code == 422
        assert (await client.post("/add", json=[1, 2, 3])).json() == 6
        assert (await client.post("/add", content=b"{")).status_code == 422
        assert (await client.get("/thread")).json() is False
        assert (await client.get("/sync-stream")).text == "0123456789"
        assert (await client.get("/openapi.json")).json()["openapi"].startswith("3.")
        await websocket.send(text("hello"))
        assert await websocket.frame() == seen_text("hello")
    assert seen == ["added"]


@WITH_FRAMEWORKS
async def test_fastapi_mounted_under_a_path_names_it_in_its_links() -> None:
    app = fastapi.FastAPI()

    @app.get("/here")
    async def here(request: fastapi.Request) -> str:
        return str(request.url_for("here"))

    async with browsing(asgi(app, root_path="/api")) as client:
        assert (await client.get("/here")).json() == f"{str(client.base_url).rstrip('/')}/api/here"


@WITH_FRAMEWORKS
async def test_all_of_it_goes_through_tls(tmp_path: Path) -> None:
    need(find_spec("trustme"), "trustme (pip install trustme)")
    authority = trustme.CA()
    server, client_side = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH), ssl.create_default_context()
    authority.issue_cert(LOOPBACK).configure_cert(server)
    authority.configure_trust(client_side)
    answers: list[bool] = []

    async def keep(request: starlette.requests.Request) -> Response:
        received = b"".join([piece async for piece in request.stream()])
        answers.append(await request.is_disconnected())
        return StreamingResponse(iter([request.url.scheme.encode(), received]))

    async with (
        serving(site_of(("/", keep)), ssl=server) as site,
        httpx.AsyncClient(base_url=site.url.replace("http", "https"), trust_env=False, verify=client_side) as client,
    ):
        for _ in range(2):
            assert (await client.post("/", content=bytes(MIB))).content == b"https" + bytes(MIB)
    assert answers == [False, False]


@WITH_FRAMEWORKS
async def test_curl_gets_back_what_it_uploads() -> None:
    """In both directions at once."""
    curl = shutil.which("curl")
    need(curl, "curl")

    async def echo_back(request: starlette.requests.Request) -> Response:
        return StreamingResponse(request.stream())

    uploaded = bytes(range(256)) * 8192
    async with serving(site_of(("/", echo_back))) as site:
        command = [str(curl), "-q", "-sS", "--noproxy", "*", "-i", "-X", "POST", "-T", "-", site.url]
        ran = await trio.run_process(command, stdin=uploaded, capture_stdout=True)
    head, _, echoed = ran.stdout.rpartition(b"\r\n\r\n")
    assert echoed == uploaded
    assert b"HTTP/1.1 200 OK" in head


@WITH_FRAMEWORKS
async def test_many_requests_at_once() -> None:
    app = fastapi.FastAPI()

    @app.get("/{number}")
    def number(number: int) -> int:
        return number

    numbers: list[int] = []

    async def ask(client: httpx.AsyncClient, number: int) -> None:
        numbers.append((await client.get(f"/{number}")).json())

    async with browsing(app) as client, trio.open_nursery() as nursery:
        for sent in range(50):
            nursery.start_soon(ask, client, sent)
    assert sorted(numbers) == list(range(50))
