"""ASGI applications besides the WebSockets: the events that they get, the messages that they may send, and errors.

Each is a function, and is spoken to in raw HTTP, through `rawws.serve` and real sockets.
"""

# ruff: noqa: ARG001 (an application takes what ASGI gives it)

from __future__ import annotations

import contextvars
import logging
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

import rawws
from rawws.application.spec import Message, Receive, Scope, Send
from rawws.errors import UsageError
from rawws.limits import KIB
from rawws.relay.loop import current_loop
from rawws.server.asgi import asgi
from tests.asgi_serving import (
    MIB,
    App,
    answer,
    body,
    chunk,
    echo,
    errors,
    length,
    only_http,
    says_ok,
    serving,
    start,
    the_error,
)
from tests.serving.client import Client
from tests.serving.machine import LOOPBACK
from tests.serving.wire import get

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


@pytest.mark.parametrize(
    ("target", "path"),
    [("/users", "/api/users"), ("/", "/api/"), ("/api/users", "/api/api/users"), ("http://localhost/x", "/api/x")],
)
async def test_root_path_stands_in_front_of_the_path(target: str, path: str) -> None:
    scope = await scope_of(get(target), root_path="/api/")
    assert (scope["root_path"], scope["path"]) == ("/api", path)
    assert scope["raw_path"] == target.removeprefix("http://localhost").encode()


async def test_root_path_is_not_in_front_of_the_star_of_the_whole_server() -> None:
    scope = await scope_of(get("*", method="OPTIONS"), root_path="/api")
    assert (scope["root_path"], scope["path"]) == ("/api", "*")


@pytest.mark.parametrize(
    ("trusted", "lines", "scheme"),
    [
        (["127.0.0.1"], ["X-Forwarded-Proto: https"], "https"),
        (["127.0.0.1"], ["Forwarded: for=203.0.113.9;proto=https"], "https"),
        (["127.0.0.1"], ["X-Forwarded-Proto: gopher"], "http"),
        (["127.0.0.1"], [], "http"),
        (["10.0.0.0/8"], ["X-Forwarded-Proto: https", "Forwarded: proto=https"], "http"),
        ([], ["X-Forwarded-Proto: https", "Forwarded: proto=https"], "http"),
    ],
)
async def test_a_trusted_proxy_sets_the_scheme_of_that_request_alone(
    trusted: list[str], lines: list[str], scheme: str
) -> None:
    schemes = []

    @only_http
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        schemes.append(scope["scheme"])
        await answer(send)

    async with serving(app, trusted_proxies=trusted) as site:
        client = await site.connect()
        await client.ask(get("/", *lines))
        await client.ask(get("/"))
    assert schemes == [scheme, "http"]


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


async def test_the_scope_names_http_1_0() -> None:
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


# Receiving


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


async def test_a_client_that_waits_for_100_continue_gets_it_when_the_application_reads() -> None:
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


async def test_uploads_over_the_limit_of_plain_handlers_reach_an_application() -> None:
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


@pytest.mark.parametrize("status", [200, 401])
async def test_a_client_that_is_answered_inside_its_upload_gets_the_answer_and_no_reset(status: int) -> None:
    @only_http
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send(start(status, length(2)))
        await send(body(b"ok"))

    async with serving(app) as site:
        client = await site.connect()
        await client.send(get("/", f"Content-Length: {2 * MIB}", method="POST"))
        await wait_all_tasks_blocked()
        await client.send(bytes(2 * MIB))
        answered = await client.answer()
        assert (answered.status, answered.headers["connection"], answered.body) == (status, "close", b"ok")
        client.end_stream()
        await client.assert_end()


async def test_each_piece_of_a_body_has_a_time_limit_and_the_whole_has_none(mock_clock: MockClock) -> None:
    received = bytearray()

    @only_http
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        while (message := await receive()).get("more_body"):
            received.extend(message["body"])
        assert message["type"] == "http.disconnect"

    async with serving(app, open_timeout=5, keep_alive=4) as site:
        client = await site.connect()
        await client.send(get("/", "Content-Length: 10", method="POST"))
        for _ in range(3):
            await client.send(b"x")
            await wait_all_tasks_blocked()
            mock_clock.jump(3.9)
        mock_clock.jump(0.2)
        answered = await client.answer()
    message = b"More of the request's body did not arrive within 4 seconds (--keep-alive).\n"
    assert (bytes(received), answered.status, answered.body) == (b"xxx", 408, message)


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
    notified = trio.Event()

    @only_http
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append((await receive())["body"])
        seen.append((await receive())["type"])
        notified.set()

    async with serving(app) as site:
        client = await site.connect()
        await client.send(get("/", "Content-Length: 10", method="POST") + b"half")
        await wait_all_tasks_blocked()
        client.hang_up()
        await notified.wait()
    assert seen == [b"half", "http.disconnect"]
    assert errors(caplog) == []


@pytest.mark.parametrize("leave", [Client.hang_up, Client.reset, Client.end_stream], ids=["FIN", "RST", "half-close"])
async def test_an_application_that_waits_for_the_disconnect_gets_it(
    leave: Callable[[Client], None], caplog: pytest.LogCaptureFixture
) -> None:
    waiting = trio.Event()
    notified = trio.Event()

    @only_http
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        waiting.set()
        assert await receive() == {"type": "http.disconnect"}
        assert await receive() == {"type": "http.disconnect"}
        notified.set()

    async with serving(app) as site:
        client = await site.connect()
        await client.send(get())
        await waiting.wait()
        leave(client)
        await notified.wait()
    assert errors(caplog) == []


async def test_a_client_with_more_pipelined_requests_than_are_kept_counts_as_gone(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    stopped = trio.Event()

    @only_http
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send(start())
        while (await receive())["type"] != "http.disconnect":
            pass
        stopped.set()

    async with serving(app) as site:
        client = await site.connect()
        await client.send(get())
        await client.until(b"\r\n\r\n")
        await client.send(bytes(16 * KIB))
        await wait_all_tasks_blocked()
        assert not stopped.is_set()
        await client.send(b"\0")
        await stopped.wait()
        await client.wait_lost()
    assert "over 16384 bytes (--max-head) are pipelined after a request" in caplog.text
    assert errors(caplog) == []


async def look_at_once(receive: Receive) -> Message | None:
    """Return the next message if it is there, as Starlette's ``is_disconnected()`` does."""
    with trio.CancelScope() as scope:
        scope.cancel()
        return await receive()
    return None


async def test_a_disconnect_is_seen_at_the_first_look_by_an_application_that_does_not_wait() -> None:
    looked: list[Message | None] = []
    look = trio.Event()
    seen = trio.Event()

    @only_http
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        looked.append(await look_at_once(receive))
        await look.wait()
        looked.append(await look_at_once(receive))
        seen.set()

    async with serving(app) as site:
        client = await site.connect()
        await client.send(get())
        await wait_all_tasks_blocked()
        client.hang_up()
        look.set()
        await seen.wait()
    assert looked == [None, {"type": "http.disconnect"}]


async def test_pipelined_bytes_are_counted_over_all_reads() -> None:
    looks = 0
    seen = trio.Event()

    @only_http
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        nonlocal looks
        await receive()
        while await look_at_once(receive) is None:
            looks += 1
            await wait_all_tasks_blocked()
        seen.set()

    async with serving(app) as site, trio.open_nursery() as nursery:
        client = await site.connect()
        await client.send(get())

        async def go_on() -> None:
            while True:
                await client.send(bytes(KIB))
                await wait_all_tasks_blocked()

        nursery.start_soon(go_on)
        await seen.wait()
        nursery.cancel_scope.cancel()
    assert 1 <= looks <= 17


async def test_tasks_that_wait_for_a_disconnect_get_it_when_another_one_completes_the_response() -> None:
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
        for _ in range(2):  # the second time, no other task reads from the connection
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


# Sending


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


@pytest.mark.parametrize("kind", [bytes, memoryview])
async def test_a_body_that_clients_do_not_read_is_counted_once(kind: Callable[[bytes], Any]) -> None:
    large = kind(bytes(32 * MIB))

    @only_http
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send(start(200, length(len(large))))
        await send(body(large))

    async with serving(app) as site:
        before = current_loop().memory.used_bytes()
        for _ in range(2):
            await (await site.connect()).send(get())
        await wait_all_tasks_blocked()
        assert 32 * MIB < current_loop().memory.used_bytes() - before < 33 * MIB


async def test_a_body_that_a_client_does_not_read_is_given_up_for_memory(caplog: pytest.LogCaptureFixture) -> None:
    @only_http
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send(start())
        await send(body(bytes(32 * MIB)))

    caplog.set_level(logging.INFO, "rawws")
    async with serving(app, max_memory=16 * MIB) as site:
        client = await site.connect()
        await client.send(get())
        while "the client reads the answer too slowly, and the server's memory is full" not in caplog.text:
            await trio.sleep(0.01)
        assert len(await client.to_end()) < 32 * MIB
        assert current_loop().memory.used_bytes() < MIB


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
        (text_body, "the body of http.response.body must be bytes, not str"),
        (text_headers, "the ASGI application's header 'a': 'b' must be two byte strings"),
        (a_line_end_in_a_header, "the ASGI application's response can't be sent: "),
        (no_such_status, "999 is not an HTTP status"),
        (an_informational_status, "the ASGI application's response can't be sent: "),
    ],
)
async def test_an_application_that_sends_an_invalid_message_is_500_and_a_usage_error(
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


@pytest.mark.parametrize("fast_lane", [True, False])
async def test_a_second_response_never_follows_a_body_that_was_too_long(
    fast_lane: bool, caplog: pytest.LogCaptureFixture
) -> None:
    @only_http
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send(start(200, length(4)))
        try:
            await send(body(b"much too long"))
        except UsageError:  # as a middleware does that answers in place of an application that has failed
            await send(start(500, length(6)))
            await send(body(b"failed"))

    async with serving(app, fast_lane=fast_lane) as site:
        client = await site.connect()
        await client.send(get() + get())
        head, _, arrived = (await client.to_end()).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 OK\r\n")
    assert arrived == b""
    assert "the ASGI application's response can't be sent" in str(the_error(caplog))


async def test_a_message_after_the_end_is_ignored_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
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


# Errors


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
    """This includes its own OSError, which must not be mistaken for the client's."""

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


async def test_an_application_that_raises_after_its_response_is_logged(caplog: pytest.LogCaptureFixture) -> None:
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


async def leave_within_the_response(
    app: App, leave: Callable[[Client], None], left: trio.Event, stopped: trio.Event
) -> None:
    """Let a client leave after the head, signal the application, and wait until it has noticed."""
    async with serving(app) as site:
        client = await site.connect()
        await client.send(get())
        await client.until(b"\r\n\r\n")
        leave(client)
        left.set()
        await stopped.wait()
        await wait_all_tasks_blocked()


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

    await leave_within_the_response(app, leave, tick, stopped)
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
            async with trio.open_nursery() as nursery:  # it raises their errors as a group
                nursery.start_soon(stream)
                nursery.start_soon(stream)
        finally:
            stopped.set()

    await leave_within_the_response(app, Client.reset, left, stopped)
    assert errors(caplog) == []


async def test_an_error_during_the_cleanup_after_a_client_that_left_is_still_logged(
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

    await leave_within_the_response(app, Client.reset, left, stopped)
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


async def test_the_next_request_does_not_wait_for_work_after_a_response() -> None:
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


async def test_background_tasks_have_a_bounded_time_at_the_end(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rawws.server.asgi.GRACE_S", 0.05)

    @only_http
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await answer(send)
        await trio.sleep_forever()

    async with serving(app) as site:
        await site.ask(get())
    (record,) = errors(caplog, "rawws.server")
    assert "background tasks took over 0.05 s; cancelled" in record.getMessage()
