"""Requests whose answer is known are answered while their connection rests; its task does all the others."""

from __future__ import annotations

import contextlib
import logging
import math
import re
from collections.abc import AsyncIterator
from functools import partial
from typing import Any

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

import rawws
from rawws import Request, Response
from rawws.errors import Refusal
from rawws.inspection.records import Record
from rawws.net.transport import RECEIVE_BYTES
from rawws.server import at_once
from rawws.server.connection import HttpConnection
from rawws.server.room_app import rooms
from rawws.tracing import Tracer
from rawws.wire.http1 import HttpPhase
from rawws.wire.known_answer import KnownAnswer
from tests.serving.client import Client
from tests.serving.machine import LOOPBACK, PATIENCE_S
from tests.serving.server import Serve
from tests.serving.wire import get


@pytest.fixture
def at_once_paths(monkeypatch: pytest.MonkeyPatch) -> list[str | None]:
    """Return a list that gets the path of each request that is answered at once."""
    paths: list[str | None] = []
    send = at_once._send

    def note(connection: HttpConnection, data: bytes, request: Request | KnownAnswer, *logger: logging.Logger) -> bool:
        paths.append(request.target.partition("?")[0])
        return send(connection, data, request, *logger)

    monkeypatch.setattr(at_once, "_send", note)
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


# Heads that come again


@pytest.fixture
def heads_read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return a list that gets the target of each clean head that is read while its connection rests."""
    targets: list[str] = []
    next_clean_request = HttpPhase.next_clean_request

    def note(self: HttpPhase) -> Request | None:
        request = next_clean_request(self)
        if request is not None:
            targets.append(request.target)
        return request

    monkeypatch.setattr(HttpPhase, "next_clean_request", note)
    return targets


async def test_a_head_that_comes_again_is_not_read_again(heads_read: list[str]) -> None:
    async with serving() as client:
        for _ in range(3):
            answer = await client.ask(get("/known"))
            assert (answer.status, answer.body) == (200, b"hi there")
            assert "date" in answer.headers
        assert heads_read == ["/known"]
        for _ in range(2):
            assert (await client.ask(get("/healthz"))).body == b"ok"
        assert heads_read == ["/known", "/healthz"]
        assert (await client.ask(get("/healthz", "X: y"))).body == b"ok"
        assert heads_read == ["/known", "/healthz", "/healthz"]


async def test_a_head_without_a_body_comes_again(heads_read: list[str]) -> None:
    head = get("/known", method="HEAD")
    async with serving() as client:
        for _ in range(3):
            await client.send(head)
            assert (await client.answer(body=False)).status == 200
        assert (await client.ask(get("/"))).body == b"hi there"
    assert heads_read == ["/known", "/"]


async def test_an_answer_that_may_change_is_found_again(heads_read: list[str]) -> None:
    async with serving() as client:
        for _ in range(2):
            assert (await client.ask(get("/readyz"))).body == b"ready"
    assert heads_read == ["/readyz"] * 2


async def test_a_head_in_pieces_or_with_another_one_is_read(heads_read: list[str]) -> None:
    known = get("/known")
    async with serving() as client:
        await client.ask(known)
        await client.send_in_pieces(known, at=[20])
        assert (await client.answer()).body == b"hi there"
        await client.send_in_pieces(b"\r\n" + known, at=[2])
        assert (await client.answer()).body == b"hi there"
        await client.send(known * 2)
        for _ in range(2):
            assert (await client.answer()).body == b"hi there"
        await client.ask(known)
    assert heads_read == ["/known", "/known"], "the first, and one that had another one after it"


async def test_a_head_that_comes_again_after_a_request_of_another_kind_is_not_read(heads_read: list[str]) -> None:
    known = get("/known")
    async with serving() as client:
        await client.ask(known)
        assert (await client.ask(get("/room/x", "Content-Length: 1", method="POST") + b"x")).status == 202
        assert (await client.ask(known)).body == b"hi there"
    assert heads_read == ["/known"]


async def test_the_rest_of_a_known_answer_is_sent_by_the_task(
    heads_read: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serving() as client:
        await client.ask(get("/known"))
        try_send = HttpConnection.try_send
        with monkeypatch.context() as scarce:
            scarce.setattr(HttpConnection, "try_send", lambda self, data, _=None: try_send(self, data[:10]))
            assert (await client.ask(get("/known"))).body == b"hi there"
        assert (await client.ask(get("/known"))).body == b"hi there"
    assert heads_read == ["/known"]


async def test_a_known_answer_has_its_access_line_and_no_more(
    heads_read: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "rawws.http")
    async with serving() as client:
        for _ in range(2):
            await client.ask(get("/known?token=secret"))
    lines = [re.sub(r"\d\.\d ms", "TIME", message) for message in caplog.messages if "known" in message]
    assert lines == ["#1 = GET /known?token=(masked): 200 in TIME"] * 2
    assert len(heads_read) == 1


async def test_the_log_tells_the_whole_story_of_a_head_that_comes_again(
    heads_read: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    async with serving() as client:
        await client.ask(get("/known"))
        await client.ask(get("/known"))
        assert len(heads_read) == 1
        caplog.set_level(logging.DEBUG, "rawws.http")
        caplog.clear()
        for _ in range(2):
            await client.ask(get("/known"))
        lines = [message.partition(" in ")[0] for message in caplog.messages]
    assert len(lines) % 2 == 0
    assert lines[: len(lines) // 2] == lines[len(lines) // 2 :]
    assert lines[0] == "#1 < GET /known HTTP/1.1"
    assert "#1 > HTTP/1.1 200 OK" in lines
    assert "#1 = GET /known: 200" in lines


async def test_a_tracer_sees_a_head_that_comes_again(heads_read: list[str]) -> None:
    tracer = Tracer()
    async with serving(tracer=tracer) as client:
        await client.ask(get("/known"))
        await client.ask(get("/known"))
        assert heads_read == ["/known"]
        sink = Heads()
        tracer.add(sink)
        await client.ask(get("/known"))
    assert sink.senders == ["client", "server"]
    assert heads_read == ["/known"] * 2


class Heads:
    """A sink that notes whose heads it sees."""

    wants_frames = False
    shown_bytes = 0

    def __init__(self) -> None:
        self.senders: list[object] = []

    def take(self, connection: int, record: Record) -> None:
        if record["kind"] == "head":
            self.senders.append(record["sender"])

    def take_frame(self, *_: object) -> None:
        raise AssertionError("there are no frames in HTTP")


async def test_the_memory_of_a_known_head_is_counted(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    held: list[int] = []
    send = at_once._send

    def note(connection: HttpConnection, *rest: Any) -> bool:
        held.append(connection.held_bytes)
        return send(connection, *rest)

    monkeypatch.setattr(at_once, "_send", note)
    client = await (await serve()).connect()
    request = get("/known", "X: " + "x" * 1000)
    await client.ask(get("/"))
    await client.ask(get("/"))
    await client.ask(request)
    await client.ask(request)
    assert held[2] - held[0] >= len(request) - len(get("/"))


class Answering:
    """An app with one answer, as far as it is known at once."""

    def __init__(self, known: Response | Refusal | None) -> None:
        self._known = known

    def answer_now(self, request: Request, *, stopping: bool) -> Response | Refusal | None:
        return self._known

    def answer_always(self, request: Request) -> None:
        pass


@pytest.mark.parametrize(
    "known", [None, Refusal(404, "code", "Nothing is here."), Response(200, b"x" * RECEIVE_BYTES)], ids=repr
)
async def test_other_answers_are_sent_by_the_task(
    known: Response | Refusal | None, at_once_paths: list[str | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rawws.server.room_app.RoomApp.answer_now", Answering(known).answer_now)
    monkeypatch.setattr("rawws.server.room_app.RoomApp.answer_always", Answering(known).answer_always)
    async with serving() as client:
        assert (await client.ask(get("/second"))).body == b"hi there"
    assert not at_once_paths


async def test_a_resting_connection_ends_at_once_when_the_server_stops() -> None:
    with trio.fail_after(PATIENCE_S):
        async with serving(drain=math.inf) as client:
            await client.ask(get("/second"))
            await wait_all_tasks_blocked()
