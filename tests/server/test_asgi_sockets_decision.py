"""The decision of an ASGI application about a WebSocket: to accept it, to refuse it, or a response of its own.

Each application is a function, and is spoken to by a raw client, through `rawws.serve` and real sockets.
"""

# ruff: noqa: ARG001 (an application takes what ASGI gives it)

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import pytest
import trio
from trio.testing import MockClock

import rawws
from rawws.application.spec import Message, Receive, Send
from tests.asgi_serving import errors, says_ok
from tests.asgi_sockets import ACCEPT, beside_rooms, deny, disconnect, echo, opened, part
from tests.serving.wire import KEY, get, upgrade


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
