"""The WebSockets of an ASGI application: their scope, their messages, and what the log and a tracer see of them.

Each application is a function, and is spoken to by a raw client, through `rawws.serve` and real sockets.
"""

# ruff: noqa: ARG001 (an application takes what ASGI gives it)

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import trio

import rawws
from rawws.application.spec import Receive, Scope, Send
from rawws.inspection.records import Record
from rawws.server.asgi import asgi
from rawws.tracing import Tracer
from rawws.wire.frames import Opcode
from tests.asgi_serving import MIB, Caller, errors, only_http, serving
from tests.asgi_sockets import ACCEPT, CONNECT, Script, beside_rooms, disconnect, echo, opened, received, sends
from tests.serving.wire import KEY, Seen, binary, close, masked, ping, seen_close, seen_text, text, upgrade

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
