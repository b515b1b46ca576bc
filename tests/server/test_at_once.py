"""Requests whose answer is known are answered while their connection rests; its task does all the others."""

from __future__ import annotations

import contextlib
import logging
import math
from collections.abc import AsyncIterator
from functools import partial
from typing import Any

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

import rawws
from rawws import Request, Response
from rawws.errors import Refusal
from rawws.net.transport import RECEIVE_BYTES
from rawws.server import at_once
from rawws.server.connection import HttpConnection
from rawws.server.room_app import rooms
from tests.serving.client import Client
from tests.serving.machine import LOOPBACK, PATIENCE_S
from tests.serving.server import Serve
from tests.serving.wire import get


@pytest.fixture
def at_once_paths(monkeypatch: pytest.MonkeyPatch) -> list[str | None]:
    """Return a list that gets the path of each request that is answered at once."""
    paths: list[str | None] = []
    answer = at_once._answer

    def note(connection: HttpConnection, request: Request, response: Response) -> bool:
        paths.append(request.path)
        return answer(connection, request, response)

    monkeypatch.setattr(at_once, "_answer", note)
    return paths


async def test_the_first_request_wakes_the_task_and_further_ones_do_not(
    serve: Serve, at_once_paths: list[str | None]
) -> None:
    client = await (await serve()).connect()
    assert (await client.ask(get("/first"))).body == b"hi there"
    for path in ("/second", "/third"):
        answer = await client.ask(get(path))
        assert (answer.status, answer.body) == (200, b"hi there")
        assert "date" in answer.headers
    assert at_once_paths == ["/second", "/third"]


async def test_the_task_goes_on_where_a_request_is_out_of_the_ordinary(
    serve: Serve, at_once_paths: list[str | None]
) -> None:
    client = await (await serve()).connect()
    await client.ask(get("/first"))
    post = b"POST /post HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nok"
    options = b"OPTIONS /options HTTP/1.1\r\nHost: a\r\n\r\n"
    assert (await client.ask(post)).status == 405
    assert (await client.ask(options)).status == 204
    await client.send_in_pieces(get("/cut"), at=[9])
    assert (await client.answer()).status == 200
    assert not at_once_paths
    assert (await client.ask(get("/again"))).status == 200
    assert at_once_paths == ["/again"]
    assert (await client.ask(b"GET /bad HTTP/1.1\r\n\r\n")).status == 400
    await client.assert_end()


async def test_pipelined_requests_are_answered_in_their_order(serve: Serve, at_once_paths: list[str | None]) -> None:
    client = await (await serve()).connect()
    await client.ask(get("/first"))
    head = b"HEAD /b HTTP/1.1\r\nHost: a\r\n\r\n"
    await client.send(get("/healthz") + head + get("/readyz") + get("/d"))
    bodies = [(await client.answer(body=has_body)).body for has_body in (True, False, True, True)]
    assert bodies == [b"ok", b"", b"ready", b"hi there"]
    assert at_once_paths == ["/healthz"]
    client.end_stream()
    await client.assert_end()


async def test_the_rest_of_an_answer_is_sent_by_the_task(
    serve: Serve, at_once_paths: list[str | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    client = await (await serve()).connect()
    await client.ask(get("/first"))
    try_send = HttpConnection.try_send

    def send_a_part(self: HttpConnection, data: bytes, logger: logging.Logger | None = None) -> int:
        return try_send(self, data[:10], logger)

    with monkeypatch.context() as scarce:
        scarce.setattr(HttpConnection, "try_send", send_a_part)
        assert (await client.ask(get("/part"))).body == b"hi there"
        await client.send(get("/part") + get("/next"))
        assert [(await client.answer()).body for _ in range(2)] == [b"hi there"] * 2
    assert (await client.ask(get("/whole"))).body == b"hi there"
    assert at_once_paths == ["/part", "/part", "/whole"]


async def test_a_client_that_leaves_before_its_answer_costs_its_connection(
    serve: Serve, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.INFO, "rawws.http")
    running = await serve()
    client = await running.connect()
    await client.ask(get("/first"))

    def lose(*_: object) -> int:
        raise ConnectionResetError(104, "Connection reset by peer")

    with monkeypatch.context() as losing:
        losing.setattr(HttpConnection, "try_send", lose)
        await client.send(get("/second"))
        await client.assert_end()
    assert "#1 ! lost in the HTTP phase: Connection reset by peer" in caplog.messages
    assert (await (await running.connect()).ask(get("/"))).status == 200


@contextlib.asynccontextmanager
async def serving(**settings: Any) -> AsyncIterator[Client]:
    """Yield a client of a server with rooms, whose connection rests."""
    hub = rawws.Hub(rooms_at="/room/")
    http = rooms(hub, is_local=True)
    async with trio.open_nursery() as nursery:
        server = await nursery.start(partial(rawws.serve, hub, 0, host=LOOPBACK, http=http, **settings))
        client = await Client.unconnected().connect(server.port)
        try:
            with trio.fail_after(PATIENCE_S):
                assert (await client.ask(get("/first"))).status == 200
                await wait_all_tasks_blocked()
                yield client
        finally:
            client.hang_up()
        server.stop()


async def test_a_room_is_read_by_the_task(at_once_paths: list[str | None]) -> None:
    async with serving() as client:
        assert (await client.ask(get("/room/x?peers"))).status == 200
        assert not at_once_paths
        assert (await client.ask(get("/room/x"))).body == b"hi there"
        assert at_once_paths == ["/room/x"]


@pytest.mark.parametrize(
    "settings",
    [
        {"process_request": lambda _: None},
        {"trusted_proxies": [LOOPBACK]},
        {"fast_lane": False},
    ],
    ids=lambda settings: next(iter(settings)),
)
async def test_the_task_answers_where_something_has_to_be_asked_first(
    settings: dict[str, Any], at_once_paths: list[str | None]
) -> None:
    async with serving(**settings) as client:
        assert (await client.ask(get("/second"))).status == 200
    assert not at_once_paths


async def test_a_host_that_is_unknown_is_refused_by_the_task(at_once_paths: list[str | None]) -> None:
    async with serving() as client:
        assert (await client.ask(get("/").replace(b"Host: ", b"Host: elsewhere.example\r\nX: "))).status == 421
    assert not at_once_paths


class Answering:
    """An app with one answer, as far as it is known at once."""

    def __init__(self, known: Response | Refusal | None) -> None:
        self._known = known

    def answer_now(self, request: Request, *, stopping: bool) -> Response | Refusal | None:
        return self._known


@pytest.mark.parametrize(
    "known", [None, Refusal(404, "code", "Nothing is here."), Response(200, b"x" * RECEIVE_BYTES)], ids=repr
)
async def test_other_answers_are_sent_by_the_task(
    known: Response | Refusal | None, at_once_paths: list[str | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rawws.server.room_app.RoomApp.answer_now", Answering(known).answer_now)
    async with serving() as client:
        assert (await client.ask(get("/second"))).body == b"hi there"
    assert not at_once_paths


async def test_a_resting_connection_ends_at_once_when_the_server_stops() -> None:
    with trio.fail_after(PATIENCE_S):
        async with serving(drain=math.inf) as client:
            await client.ask(get("/second"))
            await wait_all_tasks_blocked()
