"""A real redis-server for a test, and a network between it and its clients."""

from __future__ import annotations

import contextlib
import shutil
import signal
import socket
import subprocess
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

from tests.serving.machine import LOOPBACK, need


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind((LOOPBACK, 0))
        return int(sock.getsockname()[1])


class RedisServer:
    """A server on its own port that can be killed, stopped and started again."""

    def __init__(self, directory: Path, *options: str) -> None:
        self.port = free_port()
        self._directory = directory
        self._options = options
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"redis://{LOOPBACK}:{self.port}/0"

    async def start(self) -> None:
        await self._run("--bind", LOOPBACK, "--save", "", *self._options)

    async def watch(self, configuration: Path) -> None:
        """Become a sentinel instead of a server."""
        await self._run(str(configuration), "--sentinel")

    async def _run(self, *arguments: str) -> None:
        first = arguments[:1] if not arguments[0].startswith("-") else ()
        command = ["redis-server", *first, "--port", str(self.port), "--dir", str(self._directory)]
        command += arguments[len(first) :]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        for _ in range(500):
            with contextlib.suppress(OSError, AssertionError):
                assert await self.ask("PING") == "PONG"
                return
            await trio.sleep(0.01)
        raise AssertionError("redis-server doesn't come")

    def kill(self) -> None:
        """End the server at once (SIGKILL), as a power cut does."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def pause(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    async def ask(self, *command: str | bytes) -> Any:
        """Send a command over a new connection, and return its simple answer."""
        stream = await trio.open_tcp_stream(LOOPBACK, self.port)
        async with stream:
            raw = [b"*%d\r\n" % len(command)]
            for each in command:
                data = each.encode() if isinstance(each, str) else each
                raw.append(b"$%d\r\n%b\r\n" % (len(data), data))
            await stream.send_all(b"".join(raw))
            answer = await stream.receive_some()
        kind, rest = answer[:1], answer[1:].split(b"\r\n")
        assert kind != b"-", rest[0]
        if kind == b"$":
            return b"\n".join(rest[1:]).decode()
        return int(rest[0]) if kind == b":" else rest[0].decode()

    def end(self) -> None:
        if self._process is not None:
            self.go_on()
            self.kill()


@asynccontextmanager
async def redis_server(directory: Path, *options: str) -> AsyncIterator[RedisServer]:
    need(shutil.which("redis-server"), "redis-server")
    server = RedisServer(directory, *options)
    try:
        await server.start()
        yield server
    finally:
        server.end()


def outages(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return the lines about outages of Redis, but those that a busy machine may have by itself: no answer in 3 s."""
    messages = [record.getMessage() for record in caplog.records]
    return [line for line in messages if "the backplane is away" in line and "no answer in time" not in line]


class Network:
    """A proxy in front of a server that can disconnect, stall, or swallow the answers."""

    def __init__(self, target: int) -> None:
        self.target = target
        self.port = 0
        self.is_cut = False
        self._connections: list[trio.CancelScope] = []
        self._gates = {True: _Gate(), False: _Gate()}  # True for the direction to the server

    @property
    def url(self) -> str:
        return f"redis://{LOOPBACK}:{self.port}/0"

    async def run(self, *, task_status: trio.TaskStatus[None]) -> None:
        async with trio.open_nursery() as nursery:
            listeners = await nursery.start(trio.serve_tcp, self._relay, 0)
            self.port = listeners[0].socket.getsockname()[1]
            task_status.started()

    def cut(self) -> None:
        """End every connection, and refuse new ones."""
        self.is_cut = True
        for connection in self._connections:
            connection.cancel()

    def heal(self) -> None:
        self.is_cut = False

    def hold(self, *, to_server: bool) -> Callable[[], None]:
        """Hold the data in one direction on the existing connections. Return a function that releases it."""
        gate = self._gates[to_server]
        gate.close()
        self._gates[to_server] = _Gate()
        return gate.open

    async def _relay(self, near: trio.SocketStream) -> None:
        if self.is_cut:
            await near.aclose()
            return
        with trio.CancelScope() as scope:
            self._connections.append(scope)
            try:
                far = await trio.open_tcp_stream(LOOPBACK, self.target)
            except OSError:
                await near.aclose()
                return
            gates = dict(self._gates)
            async with near, far, trio.open_nursery() as nursery:
                nursery.start_soon(self._pass, near, far, gates[True])
                await self._pass(far, near, gates[False])
                nursery.cancel_scope.cancel()

    @staticmethod
    async def _pass(source: trio.SocketStream, sink: trio.SocketStream, gate: _Gate) -> None:
        with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            async for data in source:
                await gate.wait()
                await sink.send_all(data)
            await gate.wait()
            await sink.send_eof()


class _Gate:
    def __init__(self) -> None:
        self._open = trio.Event()
        self._open.set()

    def close(self) -> None:
        self._open = trio.Event()

    def open(self) -> None:
        self._open.set()

    async def wait(self) -> None:
        await self._open.wait()


@asynccontextmanager
async def network(target: int) -> AsyncIterator[Network]:
    between = Network(target)
    async with trio.open_nursery() as own:
        await own.start(between.run)
        yield between
        own.cancel_scope.cancel()
