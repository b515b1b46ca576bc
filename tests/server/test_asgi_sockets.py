"""The WebSockets of an ASGI application: the events that it gets and may send, its errors, and hostile clients.

Each application is a function, and is spoken to by a raw client, through `rawws.serve` and real sockets.
"""

# ruff: noqa: ARG001 (an application takes what ASGI gives it)

from __future__ import annotations

import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

import rawws
from rawws.application.spec import Message, Receive, Scope, Send
from rawws.inspection.records import Record
from rawws.relay.loop import current_loop
from rawws.server.asgi import asgi
from rawws.tracing import Tracer
from rawws.wire.frames import Opcode
from tests.asgi_serving import MIB, App, Caller, Site, errors, only_http, says_ok, serving
from tests.serving.client import Client
from tests.serving.wire import KEY, Seen, binary, close, get, masked, ping, seen_close, seen_text, text, upgrade

ACCEPT = {"type": "websocket.accept"}
CONNECT = {"type": "websocket.connect"}

Endpoint = Callable[[Receive, Send], Awaitable[None]]


def sends(content: str | bytes) -> Message:
    return {"type": "websocket.send", "text" if isinstance(content, str) else "bytes": content}


def received(content: str | bytes) -> Message:
    return {"type": "websocket.receive", "text" if isinstance(content, str) else "bytes": content}


def disconnect(code: int, reason: str = "") -> Message:
    return {"type": "websocket.disconnect", "code": code, "reason": reason}


def deny(status: int, *headers: tuple[bytes, bytes]) -> Message:
    return {"type": "websocket.http.response.start", "status": status, "headers": list(headers)}


def part(data: bytes, *, more: bool = False) -> Message:
    return {"type": "websocket.http.response.body", "body": data, "more_body": more}


def only_websockets(endpoint: Endpoint) -> App:
    @only_http
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        assert scope["type"] == "websocket"
        await endpoint(receive, send)

    return app


@contextlib.asynccontextmanager
async def beside_rooms(app: App | Endpoint, **options: Any) -> AsyncIterator[Site]:
    """Serve an application beside the rooms of a hub. A function of two arguments is one for WebSockets alone."""
    given: Any = app
    whole: App = only_websockets(given) if given.__code__.co_argcount == 2 else given
    async with serving(whole, rawws.Hub(), **options) as site:
        yield site


async def opened(site: Site, path: str = "/ws", *lines: str, then: bytes = b"") -> Caller:
    caller = await site.connect()
    await caller.open(path, *lines, then=then)
    return caller


class Script:
    """An application that accepts, and records every event up to the end."""

    def __init__(self) -> None:
        self.events: list[Message] = []
        self.over = trio.Event()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "websocket":
            raise NotImplementedError
        self.events.append(await receive())
        await send(ACCEPT)
        while self.events[-1]["type"] != "websocket.disconnect":
            self.events.append(await receive())
        self.over.set()


async def echo(receive: Receive, send: Send) -> None:
    assert await receive() == CONNECT
    await send(ACCEPT)
    while (event := await receive())["type"] == "websocket.receive":
        await send({**event, "type": "websocket.send"})


# The scope


async def scope_of(*lines: str, path: str = "/ws", **options: Any) -> Scope:
    seen: list[Scope] = []

    @only_http
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(scope)
        await send({"type": "websocket.close"})

    async with serving(asgi(app, **options), rawws.Hub()) as site:
        assert (await site.ask(upgrade(path, *lines)))[0] == 403
    (scope,) = seen
    return scope


async def test_the_scope_has_what_the_specification_lists() -> None:
    scope = await scope_of("X-One: 1", "Cookie: a=b", path="/caf%C3%A9?q=%C3%A9&token=secret")
    host, port = scope.pop("server")
    assert (host, port > 0, len(scope.pop("client"))) == ("127.0.0.1", True, 2)
    assert list(scope.pop("state")) == ["rawws"], "the hub beside which it is served"
    assert scope == {
        "type": "websocket",
        "asgi": {"version": "3.0", "spec_version": "2.4"},
        "http_version": "1.1",
        "scheme": "ws",
        "path": "/café",
        "raw_path": b"/caf%C3%A9",
        "query_string": b"q=%C3%A9&token=secret",
        "root_path": "",
        "headers": [
            (b"host", b"localhost"),
            (b"upgrade", b"websocket"),
            (b"connection", b"Upgrade"),
            (b"sec-websocket-key", KEY),
            (b"sec-websocket-version", b"13"),
            (b"x-one", b"1"),
            (b"cookie", b"a=b"),
        ],
        "subprotocols": [],
        "extensions": {"websocket.http.response": {}},
    }


async def test_the_scope_has_the_subprotocols_in_the_client_s_order() -> None:
    scope = await scope_of("Sec-WebSocket-Protocol: v2, v1", "Sec-WebSocket-Protocol: v0")
    assert scope["subprotocols"] == ["v2", "v1", "v0"]


async def test_root_path_and_origin_reach_the_application() -> None:
    scope = await scope_of("Origin: http://localhost", path="/ws", root_path="/api")
    assert (scope["root_path"], scope["path"], scope["raw_path"]) == ("/api", "/api/ws", b"/ws")
    assert (b"origin", b"http://localhost") in scope["headers"]


async def test_a_proxy_that_is_trusted_makes_it_wss() -> None:
    schemes = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        schemes.append((scope["scheme"], scope.get("client")))
        await send({"type": "websocket.close"})

    async with beside_rooms(only_http(app), trusted_proxies=["127.0.0.1"]) as site:
        await site.ask(upgrade("/ws", "X-Forwarded-Proto: https", "X-Forwarded-For: 203.0.113.9"))
    assert schemes == [("wss", ("203.0.113.9", 0))]


async def test_the_state_of_the_lifespan_is_in_the_scope() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            scope["state"]["answer"] = "42"
            await receive()
            await send({"type": "lifespan.startup.complete"})
            await receive()
            await send({"type": "lifespan.shutdown.complete"})
            return
        await send(ACCEPT)
        await send(sends(scope["state"]["answer"]))

    async with beside_rooms(app) as site:
        assert await (await opened(site)).frame() == seen_text("42")


# Messages


async def test_messages_go_both_ways_as_text_and_as_bytes() -> None:
    async with beside_rooms(echo) as site:
        caller = await opened(site)
        for each, seen in [
            (text("hello é"), seen_text("hello é")),
            (binary(b"\0\xff"), Seen(Opcode.BINARY, b"\0\xff")),
            (text(""), seen_text("")),
            (binary(b""), Seen(Opcode.BINARY, b"")),
        ]:
            await caller.send(each)
            assert await caller.frame() == seen


async def test_the_events_come_in_their_order() -> None:
    script = Script()
    async with beside_rooms(script.__call__) as site:
        caller = await opened(site, then=text("with the handshake"))
        await caller.send(masked(Opcode.TEXT, b"in ", fin=False) + ping(b"x") + masked(Opcode.CONTINUATION, b"two"))
        await caller.send(binary(b"bytes") + close(4001, "bye"))
        await script.over.wait()
        assert await caller.frame() == Seen(Opcode.PONG, b"x")
        assert await caller.frame() == seen_close(4001, "bye")
    assert script.events == [
        CONNECT,
        received("with the handshake"),
        received("in two"),
        received(b"bytes"),
        disconnect(4001, "bye"),
    ]


@pytest.mark.parametrize(
    ("leave", "code"),
    [
        (lambda caller: caller.send(close(1000)), 1000),
        (lambda caller: caller.send(masked(Opcode.CLOSE)), 1005),
        (lambda caller: _soon(caller.reset), 1006),
        (lambda caller: _soon(caller.hang_up), 1006),
        (lambda caller: caller.send(masked(Opcode.TEXT, b"\xff")), 1007),
    ],
    ids=["1000", "no code", "reset", "eof", "not UTF-8"],
)
async def test_the_end_is_reported_with_its_code(
    leave: Callable[[Caller], Awaitable[None]], code: int, caplog: pytest.LogCaptureFixture
) -> None:
    script = Script()
    async with beside_rooms(script.__call__) as site:
        caller = await opened(site)
        await leave(caller)
        await script.over.wait()
    assert (script.events[-1]["type"], script.events[-1]["code"]) == ("websocket.disconnect", code)
    assert errors(caplog, "rawws.hub") == []


async def _soon(leave: Callable[[], None]) -> None:
    leave()


async def test_a_message_over_the_limit_is_closed_with_1009() -> None:
    script = Script()
    async with beside_rooms(script.__call__, max_size=10) as site:
        caller = await opened(site)
        await caller.send(text("x" * 11))
        assert (await caller.frame()).payload[:2] == (1009).to_bytes(2, "big")
        await script.over.wait()
    assert [(event["type"], event.get("code")) for event in script.events] == [
        ("websocket.connect", None),
        ("websocket.disconnect", 1009),
    ]


async def test_a_large_message_arrives_whole() -> None:
    async with beside_rooms(echo, max_size=8 * MIB) as site:
        caller = await opened(site)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(caller.send, binary(bytes(5 * MIB)))
            assert await caller.frame() == Seen(Opcode.BINARY, bytes(5 * MIB))


async def test_compression_is_that_of_the_server() -> None:
    async with beside_rooms(echo) as site, rawws.connect(f"ws://127.0.0.1:{site.port}/ws") as ws:
        assert "permessage-deflate" in ws.extensions[0]
        await ws.send("compress me " * 1000)
        assert await ws.recv() == "compress me " * 1000
    async with beside_rooms(echo, compression=None) as site, rawws.connect(f"ws://127.0.0.1:{site.port}/ws") as ws:
        assert ws.extensions == ()


async def test_a_cancelled_receive_loses_no_message() -> None:
    async def app(receive: Receive, send: Send) -> None:
        await receive()
        await send(ACCEPT)
        for _ in range(20):
            with trio.CancelScope() as scope:
                scope.cancel()
                await receive()
        await send(sends("go"))
        await send(sends(str([(await receive())["text"] for _ in range(3)])))

    async with beside_rooms(app) as site:
        caller = await opened(site)
        assert await caller.frame() == seen_text("go")
        await caller.send(text("a") + text("b") + text("c"))
        assert await caller.frame() == seen_text("['a', 'b', 'c']")


async def test_several_tasks_may_send() -> None:
    async def app(receive: Receive, send: Send) -> None:
        await send(ACCEPT)
        async with trio.open_nursery() as nursery:
            for number in range(4):
                nursery.start_soon(send, sends(bytes([number]) * MIB))

    async with beside_rooms(app) as site:
        caller = await opened(site)
        frames = [(await caller.frame()).payload for _ in range(4)]
    assert sorted(frames) == [bytes([number]) * MIB for number in range(4)]


# The decision


async def test_an_acceptance_has_headers_and_a_subprotocol() -> None:
    async def app(receive: Receive, send: Send) -> None:
        headers = [(b"set-cookie", b"a=1"), (b"set-cookie", b"b=2"), (b"x-app", b"yes")]
        await send({**ACCEPT, "subprotocol": "v1", "headers": headers})

    async with beside_rooms(app, server_header="rawws") as site:
        caller = await site.connect()
        await caller.send(upgrade("/ws", "Sec-WebSocket-Protocol: v2, v1"))
        head = await caller.until(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 101 ")
    lines = head.split(b"\r\n")
    assert [line for line in lines if line.startswith((b"set-cookie", b"x-app", b"Server"))] == [
        b"set-cookie: a=1",
        b"set-cookie: b=2",
        b"x-app: yes",
        b"Server: rawws",
    ]
    assert b"Sec-WebSocket-Protocol: v1" in lines


async def test_the_options_for_handlers_choose_nothing_for_the_application() -> None:
    asked: list[str] = []

    def choose(request: rawws.Request, offered: Sequence[str]) -> str:
        asked.append("select_subprotocol")
        return "v1"

    def authenticate(request: rawws.Request) -> None:
        asked.append("authenticate")

    def process_response(request: rawws.Request, response: rawws.Response) -> None:
        asked.append("process_response")

    async with beside_rooms(
        echo,
        subprotocols=["v1"],
        select_subprotocol=choose,
        authenticate=authenticate,
        process_response=process_response,
    ) as site:
        caller = await site.connect()
        answer = await caller.ask(upgrade("/ws", "Sec-WebSocket-Protocol: v1"))
        assert (answer.status, answer.headers.get("sec-websocket-protocol"), asked) == (101, None, [])


async def test_grants_are_for_rooms_and_not_for_the_application() -> None:
    class Nobody:
        async def grant(self, request: rawws.Request, path: str, action: object) -> Any:
            return rawws.Response(401, "no grant")

    async with beside_rooms(echo, access=Nobody()) as site:
        await opened(site)
        assert (await site.ask(upgrade("/room/x")))[0] == 401


async def test_process_request_sees_every_request() -> None:
    async def closed(request: rawws.Request) -> rawws.Response | None:
        return rawws.Response(418) if request.path == "/ws" else None

    async with beside_rooms(echo, process_request=closed) as site:
        assert (await site.ask(upgrade("/ws")))[0] == 418
        await opened(site, "/other")


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (upgrade("/ws").replace(b"Version: 13", b"Version: 8"), 426),
        (upgrade("/ws").replace(KEY, b"short"), 400),
        (upgrade("/ws").replace(b"Connection: Upgrade", b"Connection: close"), 400),
        (upgrade("/ws", "Origin: http://evil.example"), 403),
        (upgrade("/ws", "Sec-WebSocket-Protocol: a, a"), 400),
        (upgrade("/ws", "Content-Length: 3"), 400),
        (upgrade("/ws").replace(b"GET", b"POST"), 405),
    ],
    ids=["version", "key", "connection", "origin", "subprotocols", "body", "method"],
)
async def test_a_bad_handshake_never_reaches_the_application(request_: bytes, status: int) -> None:
    called = []

    async def app(receive: Receive, send: Send) -> None:
        called.append(True)

    async with beside_rooms(app) as site:
        assert (await site.ask(request_))[0] == status
    assert called == []


async def test_an_origin_that_is_allowed_reaches_the_application() -> None:
    async with beside_rooms(echo, origins=["https://shop.example"]) as site:
        await opened(site, "/ws", "Origin: https://shop.example")


async def test_a_close_before_the_acceptance_is_a_403_with_a_sentence(caplog: pytest.LogCaptureFixture) -> None:
    events: list[Message] = []
    over = trio.Event()

    async def app(receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "websocket.close", "code": 4000, "reason": "no"})
        events.append(await receive())
        with pytest.raises(OSError, match="the WebSocket has ended"):
            await send(ACCEPT)
        over.set()

    with caplog.at_level(logging.INFO, "rawws.handshake"):
        async with beside_rooms(app) as site:
            answer = await (await site.connect()).ask(upgrade("/ws?token=secret"))
            await over.wait()
    assert (answer.status, answer.headers["connection"]) == (403, "close")
    assert answer.body == b"The application has no WebSocket at /ws, or refuses this one.\n"
    assert events == [disconnect(1006)]
    assert "refused with 403 (application_refused): The application has no" in caplog.text
    assert "secret" not in caplog.text


async def test_a_response_of_its_own_is_sent_whole() -> None:
    async def app(receive: Receive, send: Send) -> None:
        await send(deny(401, (b"content-type", b"text/plain"), (b"content-length", b"5"), (b"www-authenticate", b"x")))
        await send(part(b"login"))
        with pytest.raises(OSError, match="the WebSocket has ended"):
            await send(part(b"more"))

    async with beside_rooms(app) as site:
        caller = await site.connect()
        answer = await caller.ask(upgrade("/ws"))
        assert await caller.to_end() == b""
    assert (answer.status, answer.body) == (401, b"login")
    assert (answer.headers["connection"], answer.headers["www-authenticate"]) == ("close", "x")
    assert "date" in answer.headers


async def test_a_response_of_its_own_is_streamed() -> None:
    go_on = trio.Event()

    async def app(receive: Receive, send: Send) -> None:
        await receive()
        await send(deny(503))
        await send(part(b"one", more=True))
        await go_on.wait()
        await send(part(b"two"))
        assert await receive() == disconnect(1006)

    async with beside_rooms(app) as site:
        caller = await site.connect()
        await caller.send(upgrade("/ws"))
        assert b"HTTP/1.1 503 " in await caller.until(b"one\r\n")
        go_on.set()
        assert (await caller.to_end()).endswith(b"two\r\n0\r\n\r\n")


async def test_frames_after_a_response_of_its_own_are_not_read_as_http() -> None:
    async def app(receive: Receive, send: Send) -> None:
        await send(deny(403, (b"content-length", b"0")))
        await send(part(b""))

    async with beside_rooms(app) as site:
        caller = await site.connect()
        await caller.send(upgrade("/ws") + get("/smuggled"))
        assert (await caller.answer()).status == 403
        assert await caller.to_end() == b""


@pytest.mark.parametrize("begun", [False, True], ids=["before its head", "within its body"])
@pytest.mark.parametrize("fails", [False, True], ids=["returns", "fails"])
async def test_a_response_of_its_own_that_is_not_completed_is_cut_off(
    caplog: pytest.LogCaptureFixture, begun: bool, fails: bool
) -> None:
    async def app(receive: Receive, send: Send) -> None:
        await receive()
        await send(deny(503) if begun else deny(503, (b"content-length", b"5")))
        if begun:
            await send(part(b"one", more=True))
        if fails:
            raise ZeroDivisionError

    async with beside_rooms(app) as site:
        caller = await site.connect()
        await caller.send(upgrade("/ws"))
        whole = await caller.to_end()
    assert whole.startswith(b"HTTP/1.1 503 " if begun else b"HTTP/1.1 500 ")
    assert not whole.endswith(b"0\r\n\r\n")
    (record,) = errors(caplog, "rawws.handshake")
    words = "failed at /ws within its response" if fails else "response to /ws was not complete when it returned"
    assert words in record.getMessage()


async def test_a_response_of_its_own_with_a_wrong_length_is_an_error_of_the_application(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def app(receive: Receive, send: Send) -> None:
        await receive()
        await send(deny(403, (b"content-length", b"2")))
        await send(part(b"too long"))

    async with beside_rooms(app) as site:
        caller = await site.connect()
        await caller.send(upgrade("/ws"))
        assert b"too long" not in await caller.to_end()
    assert "can't be sent: Too much data" in str(the_handshake_error(caplog))


async def test_a_response_of_its_own_that_goes_on_after_the_drain_is_cancelled(autojump_clock: MockClock) -> None:
    autojump_clock.autojump_threshold = 0.05
    ended: list[float] = []

    async def app(receive: Receive, send: Send) -> None:
        await send(deny(503))
        await send(part(b"one", more=True))
        try:
            await trio.sleep_forever()
        finally:
            ended.append(trio.current_time() - began)

    async with beside_rooms(app, drain=2) as site:
        caller = await site.connect()
        await caller.send(upgrade("/ws"))
        await caller.until(b"one")
        began = trio.current_time()
        site.server.stop()
    assert ended == [pytest.approx(2, abs=0.5)]


async def test_an_application_that_returns_without_a_decision_is_a_500_with_a_sentence(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def app(receive: Receive, send: Send) -> None:
        await receive()

    async with beside_rooms(app) as site:
        status, body = await site.ask(upgrade("/ws"))
    assert (status, body) == (
        500,
        b"The application has returned without accepting or refusing this WebSocket.\n",
    )
    assert [record for record in caplog.records if record.exc_info] == []


async def test_an_application_that_fails_before_its_decision_is_a_500_and_one_traceback(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def app(receive: Receive, send: Send) -> None:
        await receive()
        raise ZeroDivisionError

    async with beside_rooms(app) as site:
        status, body = await site.ask(upgrade("/ws?token=secret"))
    assert (status, body) == (500, b"The application has failed before it accepted or refused this WebSocket.\n")
    (record,) = [record for record in caplog.records if record.exc_info]
    assert record.getMessage().endswith(
        "the ASGI application failed at /ws?token=(masked) before it accepted or refused the WebSocket"
    )


async def test_strangers_cause_one_traceback_in_an_application_without_websockets(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with beside_rooms(says_ok) as site:  # which sends a response of HTTP
        assert [(await site.ask(upgrade("/ws")))[0] for _ in range(5)] == [500] * 5
        assert await site.ask(get("/")) == (200, b"ok")
    (record,) = [record for record in caplog.records if record.exc_info]
    assert "; an application that takes no WebSockets does so; further such failures are logged " in record.getMessage()
    again = [record.getMessage() for record in caplog.records if ", again: " in record.getMessage()]
    assert len(again) == 4
    assert again[0].endswith(
        "! the ASGI application failed at /ws before it received websocket.connect, again: UsageError"
    )


async def test_a_subprotocol_that_was_not_offered_is_an_error_of_the_application(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def app(receive: Receive, send: Send) -> None:
        await receive()
        await send({**ACCEPT, "subprotocol": "v9"})

    async with beside_rooms(app) as site:
        assert (await site.ask(upgrade("/ws")))[0] == 500
    assert "accepts with the subprotocol 'v9'" in str(the_handshake_error(caplog))


def the_handshake_error(caplog: pytest.LogCaptureFixture) -> BaseException | None:
    (record,) = errors(caplog, "rawws.handshake")
    assert record.exc_info is not None
    return record.exc_info[1]


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


# The log, the tracer and the page


class Sink:
    """A sink of a tracer, as the page and recordings are."""

    shown_bytes = 100
    wants_frames = True

    def __init__(self) -> None:
        self.kinds: list[str] = []
        self.checks: list[Record] = []

    def take(self, connection: int, record: Record) -> None:
        self.kinds.append(str(record["kind"]))
        if record["kind"] == "checks":
            self.checks.append(record)

    def take_frame(self, connection: int, sender: object, frame: Any) -> None:
        self.kinds.append(f"frame {Opcode(frame.header.opcode).name}")


async def test_a_tracer_sees_it_like_any_other_connection() -> None:
    sink, tracer = Sink(), Tracer()
    tracer.add(sink)
    async with beside_rooms(echo, tracer=tracer) as site:
        caller = await opened(site)
        await caller.send(text("hello"))
        await caller.frame()
        await caller.send(close(1000))
        await caller.frame()
        await caller.assert_end()
    assert sink.kinds == [
        *("open", "head", "checks", "head", "checks", "switch"),
        *("frame TEXT", "frame TEXT", "frame CLOSE", "frame CLOSE", "end"),
    ]
    assert len(sink.checks) == 2


async def test_the_log_has_the_handshake_and_the_frames(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG, "rawws"):
        async with beside_rooms(echo) as site:
            caller = await opened(site)
            await caller.send(text("hello"))
            await caller.frame()
    for line in (
        "= RFC 6455 §4.2.1 item 5: one Sec-WebSocket-Key of 16 bytes? yes",
        "> HTTP/1.1 101 Switching Protocols",
        "< TEXT fin=1 rsv=000 mask=37fa213d len=5 'hello'",
        "> TEXT fin=1 rsv=000 mask=none len=5 'hello'",
    ):
        assert line in caplog.text


# Hostile clients and slow applications


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
