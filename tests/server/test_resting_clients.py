"""Clients whose connections rest between two requests: what they send is dealt with as on any other connection."""

from __future__ import annotations

import contextlib
import logging
import re
import socket
from collections.abc import AsyncIterator
from functools import partial
from typing import Any

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

import rawws
from rawws.application.spec import Receive, Scope, Send
from rawws.net.tls_transport import LOOK_RECORDS
from rawws.net.transport import Transport
from rawws.relay.ready_sockets import ReadySockets
from rawws.relay.resting import LOOK_EVERY, Resting, SecondLook
from rawws.server.connection import HttpConnection
from rawws.server.room_app import rooms
from tests.net.test_tls import Certificate
from tests.net.test_tls_floods import Attacker
from tests.serving.client import Client
from tests.serving.machine import LOOPBACK, PATIENCE_S
from tests.serving.wire import get

HI = b"hi there"


@contextlib.asynccontextmanager
async def serving(hub: rawws.Hub, **settings: Any) -> AsyncIterator[int]:
    """Yield the port of a server with rooms."""
    http = rooms(hub, is_local=True)
    async with trio.open_nursery() as nursery:
        server = await nursery.start(partial(rawws.serve, hub, 0, host=LOOPBACK, http=http, **settings))
        with trio.fail_after(PATIENCE_S):
            yield server.port
        server.stop()


@contextlib.asynccontextmanager
async def resting(hub: rawws.Hub | None = None, **settings: Any) -> AsyncIterator[Client]:
    """Yield a client whose connection rests after its first request."""
    async with serving(hub or rawws.Hub(), **settings) as port:
        client = await Client.unconnected().connect(port)
        with contextlib.closing(client.stdlib_socket):
            assert (await client.ask(get("/healthz"))).body == b"ok"
            await wait_all_tasks_blocked()
            yield client
            client.hang_up()


async def test_a_worker_that_keeps_its_connection_gets_the_answer_of_its_group() -> None:
    async with resting(rawws.Hub(queue_in_memory=True)) as worker:
        for _ in range(2):
            assert (await worker.ask(get("/pay?group=sms"))).status == 204


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    return Certificate(tmp_path_factory.mktemp("tls"))


async def rest_by_tls(port: int) -> Attacker:
    client = Attacker(socket.create_connection((LOOPBACK, port)))
    await client.do_handshake()
    client.tls.write(get("/"))
    await client.flush()
    await client.read(HI)
    await wait_all_tasks_blocked()
    return client


async def test_a_request_that_tls_has_received_with_the_one_before_is_answered(
    certificate: Certificate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rawws.net.tls_transport.LOOK_S", PATIENCE_S)
    async with serving(rawws.Hub(), ssl=certificate.server) as port:
        client = await rest_by_tls(port)
        request = get("/", f"X: {'x' * (LOOK_RECORDS - len(get('/', 'X: ')))}")
        assert len(request) == LOOK_RECORDS
        for byte in request:  # as many records as are decrypted in one look at the socket
            client.tls.write(bytes([byte]))
        client.tls.write(get("/healthz"))
        assert not client.send_at_once()
        await client.read(b"ok")
        client.hang_up()


async def test_the_access_line_of_a_client_that_is_lost_at_its_answer_is_logged(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.INFO)

    def lose(*_: object) -> int:
        raise ConnectionResetError(104, "Connection reset by peer")

    async with resting() as client:
        with monkeypatch.context() as losing:
            losing.setattr(HttpConnection, "try_send", lose)
            await client.send(get("/second"))
            await client.assert_end()
    assert any(re.match(r"#\d+ = GET /second: 200 in ", message) for message in caplog.messages)
    assert "#1 ! lost in the HTTP phase: Connection reset by peer" in caplog.messages


async def test_the_loss_of_a_client_that_reads_no_answer_is_no_matter_for_debugging_alone(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.DEBUG, "rawws")
    async with resting(close_timeout=0.05) as client:
        with monkeypatch.context() as slow:
            slow.setattr(Transport, "try_send", lambda *_: 0)
            slow.setattr(Transport, "_wait_to_send", lambda _: trio.sleep_forever())
            await client.send(get("/second"))
            await client.assert_end()
    (lost,) = [record for record in caplog.records if "lost in the HTTP phase" in record.getMessage()]
    assert lost.levelno == logging.INFO
    assert lost.getMessage() == "#1 ! lost in the HTTP phase: the client does not read the answer"


async def test_a_connection_is_looked_at_after_an_answer_of_an_application_if_that_was_of_use(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG001
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
        await send({"type": "http.response.body", "body": b"ok"})

    looks: list[bool] = []
    note = SecondLook.note

    def noted(self: SecondLook, found: bool) -> None:
        looks.append(found)
        note(self, found)

    monkeypatch.setattr(SecondLook, "note", noted)
    monkeypatch.setattr("rawws.relay.resting.Resting._receive_all", _receive_without_looking)
    async with trio.open_nursery() as nursery:
        hub = rawws.Hub()
        http = rawws.asgi(app, loop="trio", lifespan="off")
        server = await nursery.start(partial(rawws.serve, hub, 0, host=LOOPBACK, http=http))
        client = await Client.unconnected().connect(server.port)
        with trio.fail_after(PATIENCE_S), contextlib.closing(client.stdlib_socket):
            for _ in range(LOOK_EVERY + 1):
                assert (await client.ask(get("/"))).body == b"ok"
                await wait_all_tasks_blocked()
        assert looks == [False, False], "the first time, and when it was left out for long enough"
        server.stop()


async def _receive_without_looking(self: Resting, sockets: ReadySockets) -> None:
    while True:
        await sockets.wait()
        self._take_turn(sockets)
