"""WSGI applications in their pool of threads, over real sockets."""

# ruff: noqa: ARG001 (an application takes what WSGI gives it)

from __future__ import annotations

import contextlib
import contextvars
import logging
import threading
import time
import wsgiref.validate
from collections.abc import Iterable, Iterator
from functools import partial
from typing import Any

import pytest
import trio

import rawws
from rawws.application.loading import interface_of
from rawws.application.wsgi_call import StartResponse
from rawws.application.wsgi_environ import Environ
from rawws.errors import UsageError
from rawws.server.asgi import wsgi
from tests.asgi_serving import MIB, Site, chunk, echo, errors, serving, the_error
from tests.serving.client import Client
from tests.serving.machine import LOOPBACK, PATIENCE_S
from tests.serving.wire import get

TEXT = [("Content-Type", "text/plain")]


def says(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    start_response("200 OK", [*TEXT])
    return [f"{environ['REQUEST_METHOD']} {environ['SCRIPT_NAME']}{environ['PATH_INFO']}".encode()]


async def test_a_response_has_its_length() -> None:
    async with serving(wsgi(says, root_path="/api")) as site:
        client = await site.connect()
        answer = await client.ask(get("/x%20y"))
        assert (answer.status, answer.body) == (200, b"GET /api/x y")
        assert (await client.ask(get("/again"))).body == b"GET /api/again"


@pytest.mark.filterwarnings("default")  # the validator warns of what it can't decide
@pytest.mark.parametrize("root_path", ["", "/api"])
async def test_the_validator_of_the_standard_library_finds_nothing(
    root_path: str, caplog: pytest.LogCaptureFixture
) -> None:
    def reads(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        body = environ["wsgi.input"]
        lines = [body.readline(100), body.read(2), *body.readlines(100)]
        start_response("201 Created", [*TEXT])
        return iter([b"|".join(lines), b"."])

    async with serving(wsgi(wsgiref.validate.validator(reads), root_path=root_path)) as site:
        request = get("/p?q", "Content-Length: 12", "X-A: 1", "X-A: 2", method="POST") + b"one\ntwo\nfour"
        client = await site.connect()
        await client.send(request + get("/", "Connection: close"))
        received = await client.to_end()
    assert b"201 Created" in received
    assert b"one\n|tw|o\n|four" in received
    assert errors(caplog) == []


async def test_an_upload_comes_back_piece_by_piece() -> None:
    def sends_back(environ: Environ, start_response: StartResponse) -> Iterator[bytes]:
        start_response("200 OK", [*TEXT])
        yield from environ["wsgi.input"]

    async with serving(wsgi(sends_back)) as site:
        client = await site.connect()
        await client.send(get("/", "Transfer-Encoding: chunked", method="POST"))
        for number in range(20):
            await client.send(chunk(b"%03d\n" % number))
            await client.until(b"%03d\n\r\n" % number)
        await client.send(chunk(b""))
        await client.until(b"0\r\n\r\n")


async def test_a_client_that_leaves_inside_its_upload_is_an_error_of_reading(caplog: pytest.LogCaptureFixture) -> None:
    seen: list[object] = []
    over = threading.Event()

    def app(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        try:
            seen.append(environ["wsgi.input"].read())
        except OSError as error:
            seen.append(type(error).__name__)
            raise
        finally:
            over.set()
        return []

    async with serving(wsgi(app)) as site:
        client = await site.connect()
        await client.send(get("/", "Content-Length: 10", method="POST") + b"half")
        await trio.sleep(0.05)
        client.hang_up()
        assert await trio.to_thread.run_sync(over.wait, 30)
    assert seen == ["ClientDisconnected"]
    assert errors(caplog) == []


async def test_uploads_that_drip_free_their_threads(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("rawws.application.pace.PATIENCE_S", 0.2)
    ends: list[str] = []

    def app(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        try:
            environ["wsgi.input"].read()
        except OSError as error:
            ends.append(type(error).__name__)
            raise
        start_response("200 OK", [])
        return [b"ok"]

    async def drip(client: Client) -> None:
        with contextlib.suppress(trio.BrokenResourceError):
            while True:
                await client.send(b"x")
                await trio.sleep(0.05)

    async with serving(wsgi(app, threads=2)) as site, trio.open_nursery() as nursery:
        drips = [await site.connect() for _ in range(2)]
        for client in drips:
            await client.send(get("/", "Content-Length: 10000", method="POST"))
            nursery.start_soon(drip, client)
        assert (await site.ask(get("/")))[0] == 200, "a thread is free again"
        for client in drips:
            head = await client.until(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 408 ")
        nursery.cancel_scope.cancel()
    assert ends == ["ClientDisconnected"] * 2
    assert errors(caplog) == []


async def test_the_time_of_an_application_that_reads_slowly_is_not_the_clients(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rawws.application.pace.PATIENCE_S", 0.5)

    def app(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        first = environ["wsgi.input"].read(2)
        time.sleep(0.7)
        rest = environ["wsgi.input"].read()
        start_response("200 OK", [])
        return [first, rest]

    async with serving(wsgi(app)) as site:
        client = await site.connect()
        await client.send(get("/", "Transfer-Encoding: chunked", method="POST") + chunk(b"ab"))
        await trio.sleep(0.1)
        await client.send(chunk(b"cd") + chunk(b""))
        assert (await client.until(b"abcd")).startswith(b"HTTP/1.1 200")


class Pieces:
    """A body that is made as it is sent, and notes that it was closed."""

    def __init__(self, count: int, size: int = 16384) -> None:
        self.made = 0
        self.closed = threading.Event()
        self._count = count
        self._size = size

    def __iter__(self) -> Iterator[bytes]:
        for _ in range(self._count):
            self.made += 1
            yield bytes(self._size)

    def close(self) -> None:
        self.closed.set()


def streams(pieces: Pieces, *headers: tuple[str, str]) -> Any:
    def app(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        start_response("200 OK", [*TEXT, *headers])
        return pieces

    return app


async def test_a_body_is_closed_at_its_end_and_when_its_client_leaves(caplog: pytest.LogCaptureFixture) -> None:
    whole, endless = Pieces(3), Pieces(1 << 30)
    async with serving(wsgi(streams(whole))) as site:
        client = await site.connect()
        await client.send(get("/", "Connection: close"))
        assert (await client.to_end()).count(b"\0") == 3 * 16384
    assert whole.closed.is_set()
    async with serving(wsgi(streams(endless))) as site:
        client = await site.connect()
        await client.send(get("/"))
        await client.until(b"\r\n\r\n")
        client.hang_up()
        assert await trio.to_thread.run_sync(endless.closed.wait, 30)
    assert errors(caplog) == []


async def test_a_client_that_does_not_read_holds_the_application_back() -> None:
    endless = Pieces(1 << 30)
    async with serving(wsgi(streams(endless))) as site:
        client = await site.connect()
        await client.send(get("/"))
        await client.until(b"\r\n\r\n")
        before = -1
        while endless.made != before:
            before = endless.made
            await trio.sleep(0.3)
    assert endless.made * 16384 < 30 * MIB
    assert endless.closed.wait(PATIENCE_S)


async def test_the_last_piece_by_the_length_ends_the_response() -> None:
    """The client doesn't wait for what the application does after it."""
    go_on = threading.Event()

    def app(environ: Environ, start_response: StartResponse) -> Iterator[bytes]:
        start_response("200 OK", [*TEXT, ("Content-Length", "2")])
        yield b"ok"
        go_on.wait(PATIENCE_S)

    async with serving(wsgi(app)) as site:
        assert await site.ask(get("/")) == (200, b"ok")
        go_on.set()


@pytest.mark.parametrize(
    ("status", "method", "has_length"), [("204 No Content", "GET", False), ("200 OK", "HEAD", True)]
)
async def test_responses_without_a_body(status: str, method: str, has_length: bool) -> None:
    def app(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        start_response(status, [])
        return [] if status.startswith("204") else [b"ok"]

    async with serving(wsgi(app)) as site:
        client = await site.connect()
        await client.send(get("/", "Connection: close", method=method))
        head = (await client.to_end()).lower()
    assert (b"content-length: 2" in head) is has_length
    assert head.endswith(b"\r\n\r\n")


async def test_write_sends_at_once() -> None:
    go_on = threading.Event()

    def app(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        write = start_response("200 OK", [*TEXT])
        write(b"first")
        go_on.wait(PATIENCE_S)
        return [b"second"]

    async with serving(wsgi(app)) as site:
        client = await site.connect()
        await client.send(get("/"))
        await client.until(b"first")
        go_on.set()
        await client.until(b"second")
        await client.until(b"0\r\n\r\n")


async def test_an_error_page_may_replace_a_head_that_was_not_sent(caplog: pytest.LogCaptureFixture) -> None:
    import sys

    def app(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        start_response("200 OK", [*TEXT])
        try:
            raise ValueError("mine")
        except ValueError:
            start_response("500 Sorry", [*TEXT], sys.exc_info())
        return [b"sorry"]

    def too_late(environ: Environ, start_response: StartResponse) -> Iterator[bytes]:
        start_response("200 OK", [*TEXT])
        yield b"x"
        try:
            raise ValueError("too late")
        except ValueError:
            start_response("500 Sorry", [*TEXT], sys.exc_info())

    async with serving(wsgi(app)) as site:
        assert await site.ask(get("/")) == (500, b"sorry")
    async with serving(wsgi(too_late)) as site:
        client = await site.connect()
        await client.send(get("/"))
        assert not (await client.to_end()).endswith(b"0\r\n\r\n")
    assert str(the_error(caplog)) == "too late"


def calls_twice(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    start_response("200 OK", [])
    start_response("200 OK", [])
    return []


def sends_no_status(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    start_response("OK", [])
    return []


def never_starts(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    return [b"x"]


def says_nothing(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    return []


def raises(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    raise ZeroDivisionError("mine")


def needs_a_loop(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    import asyncio

    asyncio.get_running_loop()
    return []


@pytest.mark.parametrize(
    ("app", "words"),
    [
        (calls_twice, "start_response twice"),
        (sends_no_status, "status is 'OK'"),
        (never_starts, "without a call of start_response"),
        (says_nothing, "without a call of start_response"),
        (raises, "mine"),
        (needs_a_loop, "no running event loop"),
    ],
)
async def test_an_application_that_fails_is_500_with_its_traceback(
    app: Any, words: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(wsgi(app)) as site:
        assert (await site.ask(get("/")))[0] == 500
    assert words in str(the_error(caplog))


async def test_fields_of_the_connection_are_for_the_server() -> None:
    def app(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        start_response("200 OK", [("Connection", "upgrade"), ("Transfer-Encoding", "x"), ("X-Own", " kept ")])
        return [b"ok"]

    async with serving(wsgi(app)) as site:
        client = await site.connect()
        await client.send(get("/"))
        head = (await client.until(b"\r\n\r\n")).lower()
    assert b"x-own: kept\r\n" in head
    assert b"connection" not in head
    assert b"transfer-encoding" not in head


# Threads


async def test_the_pool_is_bounded_and_further_requests_wait(caplog: pytest.LogCaptureFixture) -> None:
    running = 0
    most = 0
    lock = threading.Lock()
    two = threading.Barrier(2)

    def app(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        two.wait(PATIENCE_S)  # there are two at a time, and no third
        with lock:
            running -= 1
        start_response("200 OK", [])
        return [b"ok"]

    caplog.set_level(logging.INFO, "rawws.server")
    async with serving(wsgi(app, threads=2)) as site, trio.open_nursery() as nursery:
        for _ in range(6):
            nursery.start_soon(site.ask, get("/"))
    assert most == 2
    assert "the application runs on threads, at most 2 at a time (WSGI)" in caplog.text


number: contextvars.ContextVar[int] = contextvars.ContextVar("number", default=0)


async def test_context_variables_reach_the_application_and_each_request_has_its_own() -> None:
    def app(environ: Environ, start_response: StartResponse) -> Iterator[bytes]:
        before = number.get()
        number.set(before + 100)
        start_response("200 OK", [("Content-Length", "3")])
        yield b"%d" % number.get()

    def set_number(request: rawws.Request) -> None:
        number.set(int((request.path or "").lstrip("/")))

    async with serving(wsgi(app), process_request=set_number) as site:
        for each in (1, 2):
            assert await site.ask(get(f"/{each}")) == (200, b"%d" % (each + 100))


@pytest.mark.parametrize("way", ["reads", "sends", "blocks"])
async def test_a_thread_that_goes_on_is_left_alone(way: str, bounded: None) -> None:
    seen: list[str] = []
    has_begun, release, over = threading.Event(), threading.Event(), threading.Event()

    def app(environ: Environ, start_response: StartResponse) -> Iterator[bytes]:
        try:
            start_response("200 OK", [*TEXT])
            if way == "reads":
                has_begun.set()
                environ["wsgi.input"].read()
            yield b"x"
            has_begun.set()
            if way == "blocks":
                release.wait(PATIENCE_S)
            while True:
                yield bytes(MIB)
        except OSError as error:
            seen.append(type(error).__name__)
            raise
        except GeneratorExit:
            seen.append("closed")
            raise
        finally:
            over.set()

    async with trio.open_nursery() as nursery:
        server = await nursery.start(partial(rawws.serve, echo, 0, host=LOOPBACK, http=wsgi(app)))
        client = await Site(server).connect()
        await client.send(get("/", "Content-Length: 10", method="POST"))
        assert await trio.to_thread.run_sync(has_begun.wait, 30)
        nursery.cancel_scope.cancel()
    client.hang_up()
    release.set()
    assert await trio.to_thread.run_sync(over.wait, 30)
    assert seen == (["ClientDisconnected"] if way == "reads" else ["closed"])


# Which interface it is


def makes(app: Any = None) -> Any:
    return app


async def asgi_app(scope: object, receive: object, send: object) -> None: ...


class AsgiObject:
    async def __call__(self, scope: object, receive: object, send: object) -> None: ...


class WsgiObject:
    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        return says(environ, start_response)


@pytest.mark.parametrize(
    ("app", "interface"),
    [
        (asgi_app, "asgi"),
        (AsgiObject(), "asgi"),
        (lambda *arguments: asgi_app(*arguments), "asgi"),
        (says, "wsgi"),
        (WsgiObject(), "wsgi"),
        (partial(says), "wsgi"),
        (3, "asgi"),
    ],
)
def test_the_interface_is_told_by_the_arguments(app: object, interface: str) -> None:
    assert interface_of(app) == interface


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: rawws.asgi(says), "a WSGI application is given as rawws.wsgi(app)"),  # type: ignore[arg-type]
        (lambda: wsgi(asgi_app), "an ASGI application is given as rawws.asgi(app)"),  # type: ignore[arg-type]
        (lambda: wsgi(makes), "if it makes the application, call it"),  # type: ignore[arg-type]
        (lambda: wsgi(3), "can't be 3"),  # type: ignore[arg-type]
        (lambda: wsgi(says, threads=0), "threads can't be 0; give a number from 1 on"),
        (lambda: wsgi(says, root_path="api"), "root_path can't be 'api'"),
    ],
)
def test_an_argument_that_can_not_be_used_is_one_sentence(make: Any, words: str) -> None:
    with pytest.raises(UsageError) as caught:
        make()
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


async def test_an_async_function_of_two_arguments_is_no_application() -> None:
    async def app(environ: Environ, start_response: StartResponse) -> list[bytes]:
        return []

    with pytest.raises(UsageError, match="is async, and a WSGI application is a plain function"):
        wsgi(app)  # type: ignore[arg-type]
