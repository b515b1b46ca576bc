"""Start and stop as a service: sockets that systemd holds, states that it is sent, and closes that are spread."""

# ruff: noqa: ARG001 (an application takes what ASGI gives it)

from __future__ import annotations

import logging
import math
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import NamedTuple

import pytest
import trio
from trio.testing import MockClock

from rawws.application.spec import Message, Receive, Scope, Send
from rawws.errors import UsageError
from rawws.limits import Limits
from rawws.process import systemd
from rawws.wire.frames import Opcode
from tests.asgi_serving import body, errors, length, only_http, serving, start, the_error
from tests.redis_server import redis_server
from tests.serving.client import Client
from tests.serving.machine import LOOPBACK, PATIENCE_S
from tests.serving.programs import Program
from tests.serving.server import Serve
from tests.serving.wire import get


@pytest.mark.parametrize(
    ("peers", "drain_s", "closed_at"),
    [
        (3, 5.0, [0.0] * 3),
        (12, 5.0, [0.0] * 5 + [0.05] * 5 + [0.1] * 2),
        (40, 0.2, [0.0] * 13 + [0.05] * 13 + [0.1] * 13 + [0.15]),
    ],
)
async def test_closes_are_spread_over_the_drain(
    serve: Serve, autojump_clock: MockClock, peers: int, drain_s: float, closed_at: list[float]
) -> None:
    autojump_clock.autojump_threshold = 0.05  # the loop has to have had its turn before the clock jumps
    running = await serve(limits=Limits(drain_s=drain_s))
    clients = [await running.open("/room") for _ in range(peers)]
    began = trio.current_time()
    times: list[float] = []

    async def note_close(client: Client) -> None:
        frame = await client.frame()
        assert (frame.opcode, frame.payload[:2]) == (Opcode.CLOSE, b"\x03\xe9")
        times.append(round(trio.current_time() - began, 3))
        client.hang_up()

    async with trio.open_nursery() as nursery:
        for client in clients:
            nursery.start_soon(note_close, client)
        await trio.testing.wait_all_tasks_blocked()
        running.server.stop()
    assert sorted(times) == closed_at


# An application's responses

EVENT_STREAM = (b"content-type", b"Text/Event-Stream; charset=utf-8")
TEXT = (b"content-type", b"text/plain")
WHOLE = b"\r\n0\r\n\r\n"  # the end of a chunked body (RFC 9112 §7.1)


class Call:
    """One call of an application, as it goes on while the server stops."""

    def __init__(self, receive: Receive, send: Send) -> None:
        self.notified: list[str] = []  # the notices that the application got
        self._receive = receive
        self._send = send

    async def receive(self) -> None:
        message = await self._receive()
        if message["type"] == "http.disconnect":
            self.notified.append("receive")

    async def wait_notified(self) -> None:
        while not self.notified:
            await self.receive()

    async def send(self, message: Message) -> None:
        try:
            await self._send(message)
        except OSError:
            self.notified.append("send")
            raise

    async def send_for(self, seconds: float, *headers: tuple[bytes, bytes]) -> None:
        """Send a piece of a response at its beginning, and each half second from then on."""
        await self.send(start(200, *headers))
        until = trio.current_time() + seconds
        while trio.current_time() < until:
            await self.send(body(b"piece", more=True))
            await trio.sleep(0.5)
        await self.send(body(b"end"))


async def ticks(call: Call) -> None:
    await call.send_for(math.inf, EVENT_STREAM)


async def silent(call: Call) -> None:
    await call.send(start(200, EVENT_STREAM))
    await call.send(body(b"piece", more=True))
    await trio.sleep_forever()


async def listens(call: Call) -> None:
    """Answer with events, and listen for the disconnect from before the head on."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(call.wait_notified)
        await trio.testing.wait_all_tasks_blocked()
        await call.send(start(200, EVENT_STREAM))
        await call.send(body(b"piece", more=True))
    await call.receive()
    with pytest.raises(OSError, match="shutting down"):
        await call.send(body(b"late", more=True))


async def says_goodbye(call: Call) -> None:
    await call.send(start(200, EVENT_STREAM))
    await call.send(body(b"piece", more=True))
    await call.wait_notified()
    await call.send(body(b"end"))


async def waits_and_answers(call: Call) -> None:
    await call.wait_notified()
    await call.send(start(200, length(7)))
    await call.send(body(b"nothing"))


async def waits_and_leaves(call: Call) -> None:
    await call.wait_notified()


async def endless(call: Call) -> None:
    await call.send_for(math.inf, TEXT)


async def made_as_it_is_sent(call: Call) -> None:
    await call.send_for(3.5, TEXT)


async def of_known_length(call: Call) -> None:
    await call.send_for(4.5, TEXT, length(9 * len(b"piece") + len(b"end")))


async def computes(call: Call) -> None:
    await trio.sleep(4.5)
    await call.send(start(200, length(4)))
    await call.send(body(b"paid"))


async def forever(call: Call) -> None:
    await trio.sleep_forever()


class Ending(NamedTuple):
    call: Callable[[Call], Awaitable[None]]
    after_s: float  # from the stop on, in a drain of 5 s
    notified: list[str]
    received: bytes  # the end of the client's bytes
    log: str = ""


ENDED = "the ASGI application's response to /x is ended, since the server stops"
ENDINGS = [
    Ending(ticks, 0.5, ["send"], b"piece" + WHOLE, ENDED),
    Ending(silent, 1.0, [], b"piece" + WHOLE, ENDED),
    Ending(listens, 0.0, ["receive", "receive", "send"], b"piece" + WHOLE, ENDED),
    Ending(says_goodbye, 0.0, ["receive"], b"end" + WHOLE),
    Ending(waits_and_answers, 2.5, ["receive"], b"\r\n\r\nnothing"),
    Ending(waits_and_leaves, 2.5, ["receive"], b"\r\n\r\nThe server is shutting down; try again.\n", ENDED),
    Ending(endless, 4.0, ["send"], b"\r\n5\r\npiece\r\n", ENDED),
    Ending(made_as_it_is_sent, 3.5, [], b"end" + WHOLE),
    Ending(of_known_length, 4.5, [], b"pieceend"),
    Ending(computes, 4.5, [], b"\r\n\r\npaid"),
    Ending(forever, 5.0, [], b"", "the drain of 5 s (--drain) ended before these requests were answered: /x"),
]


@pytest.mark.parametrize("ending", ENDINGS, ids=lambda ending: ending.call.__name__)
async def test_each_response_of_an_application_has_its_time_to_end(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture, ending: Ending
) -> None:
    autojump_clock.autojump_threshold = 0.05  # the sockets have to have had their turn before the clock jumps
    caplog.set_level(logging.INFO)
    calls: list[Call] = []

    @only_http
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        calls.append(Call(receive, send))
        await receive()
        await ending.call(calls[0])

    async with serving(app, drain=5) as site:
        client = await site.connect()
        await client.send(get("/x"))
        await trio.testing.wait_all_tasks_blocked(0.02)
        began = trio.current_time()
        site.server.stop()
        received = await client.to_end()
        assert round(trio.current_time() - began, 3) == ending.after_s
    assert received.endswith(ending.received)
    assert calls[0].notified == ending.notified
    said = [record.getMessage().partition(" ")[2][2:] for record in caplog.records if "/x" in record.getMessage()]
    assert [line for line in said if not line.startswith("GET /x: ")] == [ending.log] * bool(ending.log)


async def test_an_event_stream_that_is_asked_for_during_the_drain_ends_at_once(autojump_clock: MockClock) -> None:
    autojump_clock.autojump_threshold = 0.05
    stopped = trio.Event()

    @only_http
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await stopped.wait()
        await silent(Call(receive, send))

    async with serving(app, drain=5) as site:
        client = await site.connect()
        await client.send(get())
        await trio.testing.wait_all_tasks_blocked(0.02)
        began = trio.current_time()
        site.server.stop()
        stopped.set()
        assert (await client.to_end()).endswith(b"\r\n0\r\n\r\n")
        assert trio.current_time() == began


async def test_an_event_stream_that_is_not_read_ends_too(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    autojump_clock.autojump_threshold = 0.05

    @only_http
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        call = Call(receive, send)
        await call.send(start(200, EVENT_STREAM))
        while True:
            await call.send(body(b"piece" * 10_000, more=True))

    async with serving(app, drain=5) as site:
        client = await site.connect()
        await client.send(get())
        await trio.testing.wait_all_tasks_blocked(0.02)
        began = trio.current_time()
        site.server.stop()
        await trio.sleep(1.2)
        assert not (await client.to_end()).endswith(b"0\r\n\r\n"), "it ends inside a chunk"
        assert trio.current_time() - began < 2
    assert errors(caplog) == []


async def test_an_application_fails_as_ever_while_the_server_stops(caplog: pytest.LogCaptureFixture) -> None:
    @only_http
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        call = Call(receive, send)
        await call.receive()
        await call.send(start(200, EVENT_STREAM))
        await call.wait_notified()
        raise ValueError("a bug")

    async with serving(app) as site:
        client = await site.connect()
        await client.send(get())
        await client.until(b"\r\n\r\n")
        site.server.stop()
        assert await client.to_end() == b""
    assert str(the_error(caplog)) == "a bug"


async def test_an_application_shuts_down_when_its_responses_have_ended() -> None:
    story: list[str] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            for event in ("startup", "shutdown"):
                assert await receive() == {"type": f"lifespan.{event}"}
                story.append(event)
                await send({"type": f"lifespan.{event}.complete"})
            return
        try:
            await says_goodbye(Call(receive, send))
        finally:
            story.append("response")

    async with serving(app) as site:
        client = await site.connect()
        await client.send(get())
        await client.until(b"piece")
        site.server.stop()
        await client.to_end()
    assert story == ["startup", "response", "shutdown"]


# As a service


class Service:
    """A program as systemd starts it: with a listening socket, and a socket for its state."""

    def __init__(self, folder: Path, listener: socket.socket | None = None) -> None:
        self.listener = listener or socket.create_server((LOOPBACK, 0), backlog=100)
        self.port = self.listener.getsockname()[1]
        self._states = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._states.settimeout(PATIENCE_S)
        self._address = str(folder / "notify")
        self._states.bind(self._address)
        self.programs: list[Program] = []

    def start(self, *flags: str) -> Program:
        # LISTEN_PID has to be the program's own: the shell's, which becomes it.
        command = 'LISTEN_PID=$$ LISTEN_FDS=1 exec "$0" -m rawws --hello "" --port 1 "$@"'
        fd = self.listener.fileno()

        def put_at_3() -> None:
            os.dup2(fd, 3, inheritable=True)

        process = subprocess.Popen(
            ["sh", "-c", command, sys.executable, *flags], stderr=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True,
            env={**os.environ, "NOTIFY_SOCKET": self._address}, close_fds=False, preexec_fn=put_at_3,
        )  # fmt: skip
        program = Program(process)
        self.programs.append(program)
        return program

    def state(self) -> list[str]:
        return self._states.recv(4096).decode().splitlines()

    def end(self) -> None:
        for program in self.programs:
            program.end()
        self.listener.close()
        self._states.close()


def test_a_restart_refuses_no_client(tmp_path: Path) -> None:
    service = Service(tmp_path)
    try:
        early = socket.create_connection((LOOPBACK, service.port), PATIENCE_S)  # before there is a program
        early.sendall(get("/"))
        program = service.start().wait_listening()
        assert program.port == service.port, "and not the one in its arguments"
        assert service.state() == ["READY=1", f"STATUS=listening on {LOOPBACK}:{service.port}"]
        assert early.recv(4096).startswith(b"HTTP/1.1 200 OK\r\n")
        early.close()
        program.signal(signal.SIGTERM)
        assert service.state() == ["STOPPING=1", "STATUS=closing 0 peers"]
        assert program.wait() == 0
        between = socket.create_connection((LOOPBACK, service.port), PATIENCE_S)  # while there is none
        between.sendall(get("/"))
        service.start().wait_listening()
        assert between.recv(4096).startswith(b"HTTP/1.1 200 OK\r\n")
        between.close()
    finally:
        service.end()


def test_a_unix_socket_that_systemd_holds_is_left_where_it_is(tmp_path: Path) -> None:
    path = str(tmp_path / "rawws.sock")
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen()
    service = Service(tmp_path, listener)
    try:
        for _ in range(2):
            program = service.start()
            program.wait_for_line(f"listening on unix:{path} (any path is a room)")
            assert service.state() == ["READY=1", f"STATUS=listening on {path}"]
            with socket.socket(socket.AF_UNIX) as client:
                client.connect(path)
                client.sendall(get("/"))
                assert client.recv(4096).startswith(b"HTTP/1.1 200 OK\r\n")
            program.signal(signal.SIGTERM)
            assert service.state()[0] == "STOPPING=1"
            assert program.wait() == 0
    finally:
        service.end()


def unbound_stream() -> socket.socket:
    return socket.socket()


def connected_stream() -> socket.socket:
    with socket.create_server((LOOPBACK, 0)) as listener:  # as a socket unit with Accept=yes passes them on
        return socket.create_connection(listener.getsockname())


def datagrams() -> socket.socket:
    return socket.socket(type=socket.SOCK_DGRAM)


@pytest.mark.parametrize("make", [unbound_stream, connected_stream, datagrams], ids=lambda make: make.__name__)
def test_a_socket_from_systemd_has_to_listen(
    monkeypatch: pytest.MonkeyPatch, make: Callable[[], socket.socket]
) -> None:
    with make() as passed_on:
        monkeypatch.setattr(systemd, "FIRST_FD", passed_on.fileno())
        monkeypatch.setenv("LISTEN_PID", str(os.getpid()))
        monkeypatch.setenv("LISTEN_FDS", "1")
        with pytest.raises(UsageError, match=r"is not a listening stream socket; .* ListenStream= and Accept=no"):
            systemd.inherited_listeners()


def test_a_descriptor_from_systemd_has_to_be_a_socket(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("LISTEN_PID", str(os.getpid()))
    monkeypatch.setenv("LISTEN_FDS", "1")
    with (tmp_path / "file").open("w") as file:
        monkeypatch.setattr(systemd, "FIRST_FD", file.fileno())
        with pytest.raises(UsageError, match="is not a listening socket: Socket operation on non-socket"):
            systemd.inherited_listeners()
    with pytest.raises(UsageError, match="is not a listening socket: Bad file descriptor"):
        systemd.inherited_listeners()


@pytest.mark.parametrize("count", ["²", "-1", "", "all"])
def test_the_count_of_sockets_from_systemd_has_to_be_a_number(monkeypatch: pytest.MonkeyPatch, count: str) -> None:
    monkeypatch.setenv("LISTEN_PID", str(os.getpid()))
    monkeypatch.setenv("LISTEN_FDS", count)
    with pytest.raises(UsageError, match=f"LISTEN_FDS is '{count}'; it must be the number of sockets"):
        systemd.inherited_listeners()


@pytest.mark.thorough
@pytest.mark.usefixtures("bounded")
async def test_workers_share_the_sockets_that_systemd_holds(tmp_path: Path) -> None:
    service = Service(tmp_path)
    try:
        async with redis_server(tmp_path) as redis:
            program = service.start("--workers", "2", "--backplane", redis.url)
            program.wait_for_line("2 workers listen on")
            assert service.state()[0] == "READY=1"
            client = socket.create_connection((LOOPBACK, service.port))
            client.sendall(get("/"))
            assert client.recv(4096).startswith(b"HTTP/1.1 200 OK\r\n")
            client.close()
            program.signal(signal.SIGTERM)
            assert service.state()[0] == "STOPPING=1"
            assert program.wait() == 0
    finally:
        service.end()


def test_sockets_of_another_process_are_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LISTEN_PID", str(os.getpid() + 1))
    monkeypatch.setenv("LISTEN_FDS", "1")
    assert systemd.inherited_listeners() == []


def test_a_state_is_sent_only_where_a_supervisor_listens(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as states:
        states.bind(str(tmp_path / "states"))
        states.setblocking(False)
        monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
        systemd.notify("READY=1")
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "gone"))
        systemd.notify("READY=1")  # which is no reason to stop
        assert not (tmp_path / "gone").exists()
        with pytest.raises(BlockingIOError):
            states.recv(100)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "states"))
        systemd.notify("READY=1")
        assert states.recv(100) == b"READY=1"


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the abstract namespace is Linux's")
def test_an_abstract_address(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as states:
        name = f"rawws-test-{os.getpid()}"
        states.bind("\0" + name)
        monkeypatch.setenv("NOTIFY_SOCKET", "@" + name)
        systemd.notify("READY=1", "STATUS=fine")
        assert states.recv(100) == b"READY=1\nSTATUS=fine"
