"""Helpers of the tests over real sockets: raw clients, a server in the test's own trio, the program as a process."""

from __future__ import annotations

import contextlib
import io
import os
import queue
import signal
import socket
import ssl
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any, NamedTuple, NoReturn, Protocol

import pytest
import trio
import trio.testing

from rawws.errors import Cause
from rawws.hub.hub import Hub, Mode
from rawws.limits import MAX_LAG_BYTES, Limits
from rawws.net.listeners import open_listeners
from rawws.net.transport import Transport
from rawws.relay.loop import current_loop
from rawws.relay.peer import PeerGroup
from rawws.server.config import ProcessResponse, ServerConfig
from rawws.server.plain_apps import HelloApp
from rawws.server.server import Server
from rawws.websocket import WebSocket
from rawws.wire.deflate import answer_offers
from rawws.wire.frames import Opcode, encode_frame, parse_header
from rawws.wire.handshake import Accept, Handshake
from rawws.wire.messages import Headers, Request, Response
from rawws.wire.origins import Origins
from rawws.wire.role import Role
from tests.forked import Forked, Forker

LOOPBACK = "127.0.0.1"

# RFC 6455 §1.3 and §5.7: the key, its accept value, and the masking key of the examples.
KEY = b"dGhlIHNhbXBsZSBub25jZQ=="
ACCEPT = b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
MASK_KEY = bytes.fromhex("37fa213d")

# No test needs a tenth of it on an idle machine. It ends a test that hangs, and is long enough for a machine whose
# cores are busy with other programs.
PATIENCE_S = 60.0


def pace() -> float:
    """Return how many times longer something takes than on an idle machine: the programs per core that want to run."""
    cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    return max(1.0, os.getloadavg()[0] / cores)


def need(present: object, what: str) -> None:
    """Skip the test if a program that it needs is missing; fail it where everything has to be installed."""
    if present:
        return
    reason = f"{what} is not installed"
    if os.environ.get("RAWWS_REQUIRE_ALL") == "1":
        pytest.fail(f"{reason}, and RAWWS_REQUIRE_ALL=1 wants every test run")
    pytest.skip(reason)


# Bytes that a client sends


def get(target: str = "/", *lines: str, method: str = "GET", version: str = "1.1") -> bytes:
    """Return a request without a body; ``lines`` are header lines besides Host."""
    return "\r\n".join([f"{method} {target} HTTP/{version}", "Host: localhost", *lines, "", ""]).encode("ascii")


def upgrade(path: str = "/", *lines: str) -> bytes:
    """Return the handshake of RFC 6455 §1.2 for a path."""
    return get(
        path,
        "Upgrade: websocket",
        "Connection: Upgrade",
        f"Sec-WebSocket-Key: {KEY.decode()}",
        "Sec-WebSocket-Version: 13",
        *lines,
    )


def masked(opcode: int, payload: bytes = b"", *, fin: bool = True) -> bytes:
    """Return a client's frame (§5.1: masked)."""
    return encode_frame(opcode, payload, fin=fin, mask_key=MASK_KEY)


def text(message: str) -> bytes:
    return masked(Opcode.TEXT, message.encode())


def binary(message: bytes) -> bytes:
    return masked(Opcode.BINARY, message)


def ping(payload: bytes = b"") -> bytes:
    return masked(Opcode.PING, payload)


def close(code: int = 1000, reason: str = "") -> bytes:
    return masked(Opcode.CLOSE, code.to_bytes(2, "big") + reason.encode())


# Bytes that a client receives


class Seen(NamedTuple):
    """One frame from the server. An incomplete or masked frame has failed the test before."""

    opcode: Opcode
    payload: bytes


def seen_text(message: str) -> Seen:
    return Seen(Opcode.TEXT, message.encode())


def seen_close(code: int, reason: str = "") -> Seen:
    return Seen(Opcode.CLOSE, code.to_bytes(2, "big") + reason.encode())


@dataclass(frozen=True)
class Answer:
    """An HTTP response. ``headers`` have lower-case names."""

    status: int
    headers: dict[str, str]
    body: bytes


class Client:
    """Sends any bytes, right or wrong, and returns the received ones. It owns its socket."""

    def __init__(self, stdlib_socket: socket.socket) -> None:
        stdlib_socket.setblocking(False)
        self.stdlib_socket = stdlib_socket
        self._socket = trio.socket.from_stdlib_socket(stdlib_socket)
        self._unread = bytearray()

    @classmethod
    def unconnected(cls) -> Client:
        return cls(socket.socket())

    async def connect(self, port: int) -> Client:
        await self._socket.connect((LOOPBACK, port))
        return self

    async def send(self, data: bytes) -> None:
        rest = memoryview(data)
        while rest:
            rest = rest[await self._socket.send(rest) :]

    async def send_in_pieces(self, data: bytes, *, at: Sequence[int]) -> None:
        """Send data cut at these positions, so that the server most likely gets each piece in a read of its own."""
        for start, end in zip([0, *at], [*at, len(data)], strict=True):
            await self.send(data[start:end])
            await trio.testing.wait_all_tasks_blocked()

    async def _receive_more(self) -> bool:
        data = await self._socket.recv(1 << 16)
        self._unread += data
        return bool(data)

    async def take_some(self) -> bytes:
        """Return the bytes that are there, or come next; empty at the end."""
        if not self._unread:
            await self._receive_more()
        return self._take(len(self._unread))

    def _take(self, size: int) -> bytes:
        taken = bytes(self._unread[:size])
        del self._unread[:size]
        return taken

    async def answer(self, *, body: bool = True) -> Answer:
        """Return the next response; ``body=False`` for an answer to HEAD, which declares a length but has no body."""
        while (end := self._unread.find(b"\r\n\r\n")) < 0:
            assert await self._receive_more(), f"the stream ends inside a response: {bytes(self._unread)!r}"
        status_line, *lines = self._take(end + 4)[:-4].decode("ascii").split("\r\n")
        headers = {}
        for line in lines:
            name, _, value = line.partition(": ")
            headers[name.lower()] = value
        version, status, _ = status_line.split(" ", 2)
        assert version == "HTTP/1.1"
        if body and headers.get("transfer-encoding") == "chunked":
            return Answer(int(status), headers, await self._chunks())
        return Answer(int(status), headers, await self._exactly(int(headers.get("content-length", 0)) if body else 0))

    async def _exactly(self, length: int) -> bytes:
        while len(self._unread) < length:
            assert await self._receive_more(), "the stream ends inside a body"
        return self._take(length)

    async def _chunks(self) -> bytes:
        """Return a chunked body (RFC 9112 §7.1)."""
        pieces: list[bytes] = []
        while not pieces or pieces[-1]:
            while (end := self._unread.find(b"\r\n")) < 0:
                assert await self._receive_more(), "the stream ends inside a body"
            size = int(self._take(end + 2), 16)
            pieces.append((await self._exactly(size + 2))[:-2])
        return b"".join(pieces)

    async def ask(self, request: bytes) -> Answer:
        await self.send(request)
        return await self.answer(body=not request.startswith(b"HEAD "))

    async def open(self, path: str = "/", *lines: str, then: bytes = b"") -> Client:
        """Become a WebSocket; ``then`` is sent in one segment with the handshake."""
        await self.send(upgrade(path, *lines) + then)
        answer = await self.answer()
        assert answer.status == 101, answer
        assert answer.headers["sec-websocket-accept"] == ACCEPT.decode()
        return self

    async def frame(self) -> Seen:
        """Return the next frame. Fail the test if there is none, or if a server may not send it."""
        while (header := parse_header(self._unread)) is None:
            assert await self._receive_more(), f"the stream ends where a frame was due: {bytes(self._unread)!r}"
        size = len(header.raw) + header.payload_bytes
        while len(self._unread) < size:
            assert await self._receive_more(), "the stream ends inside a frame"
        assert (header.fin, header.rsv1, header.rsv2, header.rsv3) == (True, False, False, False)
        assert header.mask_key is None, "§5.1: a server must not mask"
        return Seen(Opcode(header.opcode), self._take(size)[len(header.raw) :])

    async def frames(self, count: int) -> list[Seen]:
        return [await self.frame() for _ in range(count)]

    async def frames_to_close(self) -> list[Seen]:
        """Return every frame up to the server's close, including it."""
        frames = [await self.frame()]
        while frames[-1].opcode is not Opcode.CLOSE:
            frames.append(await self.frame())
        return frames

    async def assert_end(self) -> None:
        """Assert that the server has ended the stream in order, and that everything has been read."""
        rest = bytes(self._unread) + await self._socket.recv(1 << 16)
        assert rest == b""

    async def wait_lost(self) -> None:
        """Wait until the connection has ended in any way."""
        with contextlib.suppress(ConnectionError):
            while await self._receive_more():
                pass

    def try_send(self, data: bytes | memoryview) -> int:
        """Send as much as the kernel takes now, possibly nothing."""
        try:
            return self.stdlib_socket.send(data)
        except BlockingIOError:
            return 0

    def end_stream(self) -> None:
        """Send a FIN, and still be able to read."""
        self._socket.shutdown(trio.socket.SHUT_WR)

    def reset(self) -> None:
        """Vanish with a reset (RST) instead of a FIN."""
        self._socket.setsockopt(trio.socket.SOL_SOCKET, trio.socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._socket.close()

    def hang_up(self) -> None:
        self._socket.close()


# A server in the test's own trio


class HangsUp(Protocol):
    def hang_up(self) -> None: ...


class _Starter:
    def __init__(self, nursery: trio.Nursery) -> None:
        self._nursery = nursery
        self.clients: list[HangsUp] = []

    def hang_up(self) -> None:
        """Close every client that the test has left open."""
        for client in self.clients:
            client.hang_up()


class Running:
    """A server in the test's nursery, and the clients that the test has connected to it."""

    def __init__(self, server: Server, hub: Hub, clients: list[HangsUp]) -> None:
        self.server = server
        self.hub = hub
        self.port = server.port
        self.clients = clients  # closed at the end

    async def connect(self) -> Client:
        client = Client(socket.socket())
        self.clients.append(client)
        return await client.connect(self.port)

    async def open(self, path: str = "/", *lines: str, then: bytes = b"") -> Client:
        client = await self.connect()
        return await client.open(path, *lines, then=then)


class Serve(_Starter):
    """Starts servers: ``running = await serve(limits=Limits(...))``."""

    async def __call__(
        self,
        *,
        limits: Limits | None = None,
        max_lag_bytes: int = MAX_LAG_BYTES,
        origins: Origins | None = None,
        mode: Mode = Mode.BROADCAST,
        hello: str = "",
        compression: bool = True,
        fast_lane: bool = True,
        tls: ssl.SSLContext | None = None,
        process_response: ProcessResponse | None = None,
        **settings: Any,
    ) -> Running:
        server, hub = make_server(
            await open_listeners(LOOPBACK, 0),
            limits=limits or Limits(),
            max_lag_bytes=max_lag_bytes,
            origins=origins or Origins(),
            mode=mode,
            hello=hello,
            compression=compression,
            fast_lane=fast_lane,
            tls=tls,
            process_response=process_response,
            **settings,
        )
        await self._nursery.start(server.run)
        return Running(server, hub, self.clients)


def make_server(
    listeners: list[socket.socket],
    *,
    limits: Limits,
    max_lag_bytes: int = MAX_LAG_BYTES,
    origins: Origins | None = None,
    mode: Mode = Mode.BROADCAST,
    hello: str = "",
    compression: bool = True,
    fast_lane: bool = True,
    tls: ssl.SSLContext | None = None,
    process_response: ProcessResponse | None = None,
    **settings: Any,
) -> tuple[Server, Hub]:
    """Return the server that ``python -m rawws`` runs, with any limits; ``settings`` are those of its rooms."""
    hub = Hub(mode=mode, hello=hello, max_lag_bytes=max_lag_bytes, **settings)
    app = HelloApp()
    config = ServerConfig(
        app=app.serve_exchange,
        limits=replace(limits, max_body_bytes=app.max_body_bytes(limits)),
        origins=origins or Origins(),
        compression=compression,
        process_response=process_response,
    )
    return Server(listeners, hub, config, tls=tls, fast_lane=fast_lane), hub


class RunningHub:
    """A hub without HTTP in front. Its peers are socket pairs, so the kernel's buffers are small and known."""

    def __init__(self, hub: Hub, endpoint: PeerGroup, fast_lane: bool, clients: list[HangsUp]) -> None:
        self.hub = hub
        self.endpoint = endpoint
        self._fast_lane = fast_lane
        self._clients = clients
        self._joined = 0

    async def stop(self, drain_s: float) -> None:
        """Close every peer as a stopping server does, and wait for them."""
        for peer in current_loop().peers_of(self.endpoint):
            current_loop().close(peer, 1001, "the server is shutting down", Cause.SHUTDOWN)
        with trio.move_on_after(drain_s):
            await self.endpoint.wait_empty()

    def join(
        self,
        path: str = "/",
        *,
        send_buffer: int | None = None,
        trailing_data: bytes = b"",
        extensions: str = "",
        subprotocol: str | None = None,
    ) -> Client:
        """Put a new peer into a room. ``send_buffer`` bounds the bytes that it can be sent before it reads."""
        ours, client = self.pair(send_buffer=send_buffer)
        self.adopt(Transport(ours), path, trailing_data, extensions, subprotocol)
        return client

    def pair(self, *, send_buffer: int | None = None) -> tuple[socket.socket, Client]:
        """Return the two ends of a connection."""
        ours, theirs = socket.socketpair()
        if send_buffer is not None:
            ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, send_buffer)
        client = Client(theirs)
        self._clients.append(client)
        return ours, client

    def adopt(
        self,
        transport: Transport,
        path: str = "/",
        trailing_data: bytes = b"",
        extensions: str = "",
        subprotocol: str | None = None,
    ) -> None:
        """Hand a connection over to the hub, as the HTTP phase does after its 101."""
        self._joined += 1
        handshake = Handshake(
            (), path, Accept.of(KEY.decode()), None, answer_offers([extensions]), subprotocol=subprotocol
        )
        self.hub.adopt(
            self._joined,
            transport,
            handshake,
            self.endpoint,
            trailing_data=trailing_data,
            fast_lane=self._fast_lane,
        )


def websocket_on(connected: socket.socket, number: int, endpoint: PeerGroup) -> WebSocket:
    """Return the WebSocket that a handler holds."""
    return WebSocket(
        Transport(connected),
        Role.SERVER,
        number=number,
        endpoint=endpoint,
        request=Request("GET", "/", "1.1", Headers([("Host", "a")])),
        response=Response(101),
        subprotocol=None,
        agreement=None,
        remote_address="",
    )


class StartHub(_Starter):
    """Starts hubs: ``running = start_hub(limits=Limits(...))``."""

    def __call__(
        self,
        *,
        limits: Limits | None = None,
        max_lag_bytes: int = MAX_LAG_BYTES,
        mode: Mode = Mode.BROADCAST,
        hello: str = "",
        fast_lane: bool = True,
        **settings: Any,
    ) -> RunningHub:
        limits = limits or Limits()
        hub = Hub(mode=mode, hello=hello, max_lag_bytes=max_lag_bytes, **settings)
        return RunningHub(hub, PeerGroup(limits), fast_lane, self.clients)


async def watch_the_clock(over: threading.Event, patience_s: float) -> None:
    """Fail the test if it takes too long by the wall clock, which a mock clock doesn't stop.

    A machine that has become busy since the test began gets more time.
    """
    began = time.monotonic()
    while (left_s := began + patience_s * pace() - time.monotonic()) > 0:
        if await trio.to_thread.run_sync(over.wait, left_s, abandon_on_cancel=True):
            return
    raise AssertionError(f"the test hangs: it is not over after {time.monotonic() - began:.0f} s")


# The program as a process


class Lines:
    """The lines that a process writes. A thread reads them as they come, so that no pipe ever fills up."""

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream
        self._arriving: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        for line in self._stream:
            self._arriving.put(line.rstrip("\n"))
        self._arriving.put(None)

    def next(self) -> str | None:
        """Return the next line, or None at the end. Raises queue.Empty if there is none in time."""
        return self._arriving.get(timeout=PATIENCE_S)

    def rest(self) -> str:
        """Return all that hasn't been read, up to the end."""
        return "".join(f"{line}\n" for line in iter(self.next, None))

    def close(self) -> None:
        """Close the stream, whose other end must be closed."""
        self._reader.join(PATIENCE_S)
        self._stream.close()


def wait_listening_at(port: int) -> None:
    """Wait until a program accepts connections on a port."""
    end = time.monotonic() + PATIENCE_S
    while True:
        try:
            socket.create_connection((LOOPBACK, port), timeout=1).close()
        except OSError:
            assert time.monotonic() < end, f"nothing listens at port {port} within {PATIENCE_S:g} s"
            time.sleep(0.01)
        else:
            return


class Program:
    """``python -m rawws`` on its own port, and its log. The methods block, within a time limit."""

    def __init__(self, process: subprocess.Popen[str] | Forked) -> None:
        stream = process.stderr
        assert stream is not None
        self.process = process
        self.lines: list[str] = []  # of the log, as far as the test has waited for them
        self.port = 0
        self._page_link = ""
        self._clients: list[Client] = []
        self._log = Lines(io.TextIOWrapper(stream) if isinstance(stream, io.BufferedReader) else stream)

    def wait_listening(self) -> Program:
        listening = self.wait_for_line("listening on http")
        self.port = int(listening.split("://")[1].split()[0].rpartition(":")[2])
        return self

    def wait_for_line(self, part: str) -> str:
        """Return the next line of the log that contains this text."""
        while True:
            try:
                line = self._log.next()
            except queue.Empty:
                self._fail(f"did not write {part!r} within {PATIENCE_S:g} s")
            if line is None:
                self._fail(f"ended without writing {part!r}")
            self.lines.append(line)
            if part in line:
                return line

    def page_link(self) -> str:
        """Return the link to its page. The program logs it, with the token, right after it listens."""
        if not self._page_link:
            read = [line for line in self.lines if "?token=" in line]
            line = read[0] if read else self.wait_for_line("?token=")
            self._page_link = line.split(" open ")[1].split()[0]
        return self._page_link

    def page_cookie(self) -> str:
        """Return the header field that opens its page, under the address of the link."""
        address, _, token = self.page_link().partition("?token=")
        return f"Cookie: rawws-page-{address.rpartition(':')[2].partition('/')[0]}={token}"

    def _fail(self, what: str) -> NoReturn:
        pytest.fail("\n".join([f"the program {what}; it wrote:", *self.lines]))

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def kill(self) -> None:
        """End it as a power cut does, and wait until its port is free."""
        self.process.kill()
        self.process.wait(PATIENCE_S)

    def wait(self, timeout_s: float = PATIENCE_S) -> int:
        """Return the exit status; ``lines`` then holds the whole log."""
        status = self.process.wait(timeout_s)
        while (line := self._log.next()) is not None:
            self.lines.append(line)
        return status

    def end(self) -> None:
        """End it if it still runs. Harmless twice."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(PATIENCE_S)
        self._log.close()
        for client in self._clients:
            client.stdlib_socket.close()

    @property
    def address(self) -> str:
        return f"{LOOPBACK}:{self.port}"

    async def connect(self) -> Client:
        client = Client(socket.socket())
        self._clients.append(client)
        return await client.connect(self.port)


class StartProgram:
    """Starts programs: ``program = start_program("--drain", "1")``."""

    def __init__(self, forker: Forker) -> None:
        self._forker = forker
        self.command = [sys.executable, "-m", "rawws"]
        self.started: list[Program] = []

    def __call__(
        self,
        *arguments: str,
        max_files: int | None = None,
        directory: Path | None = None,
        constants: Mapping[str, float] | None = None,
    ) -> Program:
        """Return the program once it listens. ``max_files`` is its hard limit on open descriptors.

        ``constants`` are those of rawws that are other ones in this program: see ``Forker.start``.
        """
        command = [*self.command, "--port", "0", *arguments]
        if max_files is not None:
            command = ["sh", "-c", f'ulimit -n {max_files} && exec "$@"', "sh", *command]
        return self._start(command, directory, constants)

    def tap(self, target: str, *arguments: str) -> Program:
        """Return a tap in front of the target once it listens."""
        return self._start([*self.command, "tap", "0", target, *arguments])

    def _start(
        self, command: Sequence[str], directory: Path | None = None, constants: Mapping[str, float] | None = None
    ) -> Program:
        if self._forker.can_start(command) or constants:
            return self.fork(*command[3:], directory=directory, constants=constants).wait_listening()
        return self._begin(command, directory).wait_listening()

    def fork(
        self, *arguments: str, directory: Path | None = None, constants: Mapping[str, float] | None = None
    ) -> Program:
        """Return the program before it listens."""
        return self._watch(
            self._forker.start(arguments, stderr=subprocess.PIPE, directory=directory, constants=constants)
        )

    def begin(self, *arguments: str, directory: Path | None = None) -> Program:
        """Return the program before its Python has begun. It leads a process group of its own, as in a terminal."""
        return self._begin([*self.command, *arguments], directory, own_group=True)

    def _begin(self, command: Sequence[str], directory: Path | None = None, *, own_group: bool = False) -> Program:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            cwd=directory,
            process_group=0 if own_group else None,
        )
        return self._watch(process)

    def _watch(self, process: subprocess.Popen[str] | Forked) -> Program:
        program = Program(process)
        self.started.append(program)
        return program

    def run(self, *arguments: str | bytes, directory: Path | None = None) -> subprocess.CompletedProcess[str]:
        """Run a program that ends by itself, and return its exit status and output."""
        command = [*self.command, *arguments]
        if self._forker.can_start(command):
            ran = self._forker.run(arguments, timeout=PATIENCE_S, directory=directory)
            return subprocess.CompletedProcess(command, ran.returncode, ran.stdout.decode(), ran.stderr.decode())
        return subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            check=False,
            cwd=directory,
        )
