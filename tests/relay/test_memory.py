"""The bytes that are counted (`--max-memory`, `rawws_held_bytes`) are those that the process grows by.

Each row is one way to make a server keep something: clients on real sockets do it to `memory_server.py`, which is a
process of its own, and then both figures are compared. Memory that isn't counted is a way around the limit, so each new
kind of object that can wait needs a row here.
"""

from __future__ import annotations

import base64
import ctypes
import gc
import json
import random
import socket
import ssl
import subprocess
import sys
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
import trio
import trio.testing
import trustme

import rawws
from rawws.broadcast.idempotency import IdempotencyKey
from rawws.broadcast.log import History
from rawws.broadcast.outbox import Outbox, Outgoing
from rawws.broadcast.stream_entries import Author
from rawws.relay.loop import current_loop
from rawws.wire.frames import Opcode
from tests.serving.machine import LOOPBACK, PATIENCE_S, need
from tests.serving.wire import get, masked, upgrade
from tests.traced_memory import traced_memory

KIB = 1024
MIB = 1024 * KIB

DEFLATE = "Sec-WebSocket-Extensions: permessage-deflate"


class Measured:
    """The server's process."""

    def __init__(self, certificate: Path) -> None:
        command = [sys.executable, "-m", "tests.memory_server", str(certificate)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        self.ports: dict[str, int] = json.loads(self._process.stdout.readline())
        self._tls = ssl.create_default_context()
        self._tls.check_hostname, self._tls.verify_mode = False, ssl.CERT_NONE
        self._open: list[socket.socket] = []

    def end(self) -> None:
        self.hang_up()
        self._process.communicate(timeout=PATIENCE_S)

    def hang_up(self) -> None:
        for each in self._open:
            each.close()
        self._open.clear()

    def look(self, how: str = "-") -> dict[str, int]:
        """Return the server's figures, which cost it one turn; the memory of its process takes longer."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{how}\n")
        self._process.stdin.flush()
        figures: dict[str, int] = json.loads(self._process.stdout.readline())
        return figures

    def settle(self) -> dict[str, int]:
        """Wait until the figures no longer change, so that all readable bytes have been read."""
        same, before = 0, self.look()
        while same < 20:
            now = self.look()
            same, before = same + 1 if now == before else 0, now
        return self.look("m")

    # Clients, which read nothing but the answer to a handshake

    def warm_up(self) -> None:
        """Use every path once, so that objects made once are not counted as growth."""
        for path in ("/", "/handler", "/echoes", "/wait"):
            self.push(self.websocket(path), masked(2, bytes(100_000)))
        self.push(self.websocket("/", DEFLATE), compressed(b"x" * 1000, fin=False))
        self.websocket(server="tls")
        self.request(get("/r?last=1"))
        self.request(get("/"), "http")
        self.websocket(server="app")
        self.request(upgrade("/undecided"), "app")
        self.request(get("/e", "Accept: text/event-stream"))
        self.hang_up()

    def connect(self, server: str = "rooms") -> socket.socket:
        connected = socket.socket()
        connected.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connected.settimeout(PATIENCE_S)
        connected.connect((LOOPBACK, self.ports[server]))
        if server == "tls":
            connected = self._tls.wrap_socket(connected)
        self._open.append(connected)
        return connected

    def tls_websocket(self) -> tuple[socket.socket, Callable[[bytes], bytes]]:
        """Open a WebSocket whose TLS records can be cut; return the plain socket, and a function that encrypts data."""
        connected = socket.create_connection((LOOPBACK, self.ports["tls"]), PATIENCE_S)
        self._open.append(connected)
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        tls = self._tls.wrap_bio(incoming, outgoing)

        def encrypt(data: bytes) -> bytes:
            tls.write(data)
            return outgoing.read()

        while True:
            try:
                tls.do_handshake()
                break
            except ssl.SSLWantReadError:
                connected.sendall(outgoing.read())
                incoming.write(connected.recv(1 << 16))
        connected.sendall(outgoing.read() + encrypt(upgrade()))
        connected.recv(1 << 16)
        return connected, encrypt

    def websocket(self, path: str = "/", *lines: str, server: str = "rooms") -> socket.socket:
        connected = self.connect(server)
        connected.sendall(upgrade(path, *lines))
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            piece = connected.recv(1)
            assert piece, head
            head += piece
        assert head.startswith(b"HTTP/1.1 101 "), head
        return connected

    def request(self, raw: bytes, server: str = "rooms") -> socket.socket:
        connected = self.connect(server)
        self.push(connected, raw)
        return connected

    def push(self, connected: socket.socket, data: bytes) -> None:
        """Send as much as the server takes."""
        connected.setblocking(False)
        view = memoryview(data)
        stuck = 0
        while view and stuck < 3:
            try:
                view = view[connected.send(view) :]
                stuck = 0
            except (BlockingIOError, ssl.SSLWantWriteError):
                stuck += 1
                self.look()
        connected.settimeout(PATIENCE_S)

    def blocked(self, path: str = "/", *lines: str, server: str = "rooms", size: int = 32 * KIB) -> socket.socket:
        """Open a WebSocket in a room whose socket is full, since it doesn't read its own messages."""
        connected = self.websocket(path, *lines, server=server)
        self.push(connected, masked(2, bytes(size)))
        return connected


# The ways

Way = Callable[[Measured], None]
WAYS: dict[str, Way] = {}
QUICK: set[str] = set()


def way(title: str, *, quick: bool = False) -> Callable[[Way], Way]:
    """Note a way. The suite has those that are ``quick``, at least one of each kind, and the others are thorough."""

    def note(done: Way) -> Way:
        WAYS[title] = done
        if quick:
            QUICK.add(title)
        return done

    return note


LINES = [f"x-{number}: {'y' * 150}" for number in range(80)]  # a head of 13 KiB


def compressed(data: bytes, *, fin: bool = True) -> bytes:
    deflate = zlib.compressobj(9, zlib.DEFLATED, -15)
    frame = bytearray(masked(1, (deflate.compress(data) + deflate.flush(zlib.Z_SYNC_FLUSH))[:-4], fin=fin))
    frame[0] |= 0x40
    return bytes(frame)


def body(size: int, path: str = "/b") -> bytes:
    return get(path, f"Content-Length: {size}", "Content-Type: text/plain", method="POST")


# Connections


@way("idle WebSockets", quick=True)
def _(server: Measured) -> None:
    for _ in range(300):
        server.websocket()


@way("WebSockets that have spoken, each in a room of its own")
def _(server: Measured) -> None:
    for number in range(200):
        server.push(server.websocket(f"/{number}"), masked(2, b"x"))


@way("WebSockets in rooms with long names")
def _(server: Measured) -> None:
    for number in range(100):
        server.websocket(f"/{number}{'x' * 5000}")


@way("WebSockets of a program", quick=True)
def _(server: Measured) -> None:
    for _ in range(60):
        server.websocket("/handler")


@way("WebSockets of a program with long heads")
def _(server: Measured) -> None:
    for _ in range(30):
        server.websocket("/handler", *LINES)


@way("WebSockets of an application")
def _(server: Measured) -> None:
    for _ in range(60):
        server.websocket("/ws", server="app")


@way("WebSockets of an application with long heads")
def _(server: Measured) -> None:
    for _ in range(30):
        server.websocket("/ws", *LINES, server="app")


@way("messages that wait for an application")
def _(server: Measured) -> None:
    for _ in range(10):
        server.push(server.websocket("/ws", server="app"), masked(2, bytes(50_000)) * 10)


@way("WebSockets that an application has not decided about")
def _(server: Measured) -> None:
    for _ in range(60):
        server.request(upgrade("/undecided"), "app")


@way("WebSockets with long heads that an application has not decided about")
def _(server: Measured) -> None:
    for _ in range(30):
        server.request(upgrade("/undecided", *LINES), "app")


@way("WebSockets through TLS")
def _(server: Measured) -> None:
    for _ in range(30):
        server.websocket(server="tls")


@way("TLS records that have begun", quick=True)
def _(server: Measured) -> None:
    for _ in range(30):
        connected, encrypt = server.tls_websocket()
        connected.sendall(encrypt(bytes(16_000))[:-1])


@way("event streams", quick=True)
def _(server: Measured) -> None:
    for _ in range(300):
        server.request(get("/e", "Accept: text/event-stream"))


@way("idle HTTP connections", quick=True)
def _(server: Measured) -> None:
    for _ in range(60):
        server.connect()


@way("HTTP connections between two requests")
def _(server: Measured) -> None:
    for _ in range(60):
        server.request(get("/healthz", *LINES))


# Requests


@way("heads that drip", quick=True)
def _(server: Measured) -> None:
    for _ in range(60):
        server.request(get("/", *LINES)[:-4])


@way("requests that wait for a program")
def _(server: Measured) -> None:
    for _ in range(60):
        server.request(get("/"), "http")


@way("requests with long heads that wait for a program")
def _(server: Measured) -> None:
    for _ in range(30):
        server.request(get("/", *LINES), "http")


@way("bodies being received", quick=True)
def _(server: Measured) -> None:
    for _ in range(5):
        server.request(body(1_000_000) + bytes(300_000))


@way("bodies that wait for a program")
def _(server: Measured) -> None:
    for _ in range(5):
        server.request(body(300_000, "/") + bytes(300_000), "http")


@way("bodies that wait for a slow room")
def _(server: Measured) -> None:
    server.blocked("/wait", size=200 * KIB)
    for _ in range(5):
        server.request(body(300_000, "/wait") + bytes(300_000))


# Polls


@way("polls that wait", quick=True)
def _(server: Measured) -> None:
    for _ in range(60):
        server.request(get("/polled?last=1&wait=30"))


@way("requests pipelined after polls that wait")
def _(server: Measured) -> None:
    for _ in range(40):
        server.request(get("/polled?last=1&wait=30") + get("/") * 300)


@way("rooms with long names, polled once")
def _(server: Measured) -> None:
    one = server.connect()
    for number in range(200):
        one.sendall(get(f"/{number}{'x' * 7000}?last=1"))
        one.recv(1 << 16)


@way("rooms with short names, polled once", quick=True)
def _(server: Measured) -> None:
    one = server.connect()
    for number in range(200):
        one.sendall(get(f"/short/{number}?last=1"))
        one.recv(1 << 16)


@way("polls of control characters")
def _(server: Measured) -> None:
    server.push(server.websocket("/history/control", DEFLATE), compressed(b"\x01" * 1_000_000))
    server.look()
    for _ in range(10):
        server.request(get("/history/control?last=1"))


@way("answers kept for other polls")
def _(server: Measured) -> None:
    for number in range(5):
        one = server.websocket(f"/history/kept/{number}")
        server.push(one, masked(1, b"x" * 1000) * 200)
        server.look()
        server.request(get(f"/history/kept/{number}?last=0&wait=30"))
        server.request(get(f"/history/kept/{number}?last=200"))


@way("polls of many messages, each from another place")
def _(server: Measured) -> None:
    server.push(server.websocket("/history/many"), masked(1, b"x" * 1000) * 400)
    server.look()
    for number in range(8):
        server.request(get(f"/history/many?last={400 - number}"))


@way("idempotency keys", quick=True)
def _(server: Measured) -> None:
    one = server.connect()
    for number in range(500):
        one.sendall(get("/keys", f"Idempotency-Key: {number:0200}", "Content-Length: 0", method="POST"))
        one.recv(1 << 16)


# Answers and messages that are not read


def send_pings(server: Measured, some: list[socket.socket]) -> None:
    """Make the server read each ping separately, so that each pong is a separate frame."""
    for _ in range(100):
        for each in some:
            server.push(each, masked(9))
        server.look()


@way("pongs of two bytes")
def _(server: Measured) -> None:
    some = [server.websocket("/pongs") for _ in range(50)]
    server.push(some[0], masked(2, bytes(32 * KIB)))
    send_pings(server, some)


@way("pongs of two bytes through TLS")
def _(server: Measured) -> None:
    some = [server.websocket("/pongs", server="tls") for _ in range(20)]
    server.push(some[0], masked(2, bytes(32 * KIB)))
    send_pings(server, some)


@way("pongs of two bytes for a program")
def _(server: Measured) -> None:
    some = [server.websocket("/echoes") for _ in range(5)]
    for each in some:
        server.push(each, masked(2, bytes(32 * KIB)))
    send_pings(server, some)


@way("tiny echoes")
def _(server: Measured) -> None:
    for _ in range(5):
        one = server.websocket(server="echo")
        server.push(one, masked(2, bytes(50_000)))
        for _ in range(20):
            server.push(one, masked(2, b"x") * 100)
            server.look()


@way("large echoes", quick=True)
def _(server: Measured) -> None:
    for _ in range(3):
        server.push(server.websocket(server="echo"), masked(2, bytes(500_000)))


@way("tiny answers of a program")
def _(server: Measured) -> None:
    for _ in range(20):
        server.push(server.websocket("/echoes"), masked(2, b"") * 2000)


@way("join and leave notices")
def _(server: Measured) -> None:
    watchers = [server.websocket("/p?presence", "Sec-WebSocket-Protocol: rawws.id.v1") for _ in range(20)]
    server.push(watchers[0], masked(2, bytes(32 * KIB)))
    for _ in range(100):
        server.websocket("/p").close()
        server.look()


@way("notices of skipped messages between pongs")
def _(server: Measured) -> None:
    for number in range(5):
        slow = server.blocked(f"/skip/{number}", "Sec-WebSocket-Protocol: rawws.id.v1")
        for _ in range(20):
            server.push(slow, masked(9))
            server.look()
            server.push(slow, masked(2, bytes(2000)))
            server.look()


@way("a room that is read slowly", quick=True)
def _(server: Measured) -> None:
    server.push(server.blocked("/slow"), masked(2, bytes(1000)) * 1000)


@way("tiny messages, each by itself, that are read slowly")
def _(server: Measured) -> None:
    one = server.blocked("/slow")
    for _ in range(1600):
        server.push(one, masked(2, b""))
        server.look()


@way("events that are read slowly")
def _(server: Measured) -> None:
    server.request(get("/slow", "Accept: text/event-stream"))
    server.push(server.blocked("/slow"), masked(2, bytes(1000)) * 500)


@way("a history, read from places within a segment")
def _(server: Measured) -> None:
    server.push(server.blocked("/history/slow"), masked(2, bytes(1000)) * 200)
    for number in range(20):
        server.websocket(f"/history/slow?last={150 - number}")


@way("the newest of each key", quick=True)
def _(server: Measured) -> None:
    messages = [masked(1, json.dumps({"k": number}).encode()) for number in range(3000)]
    server.push(server.blocked("/latest"), b"".join(messages))


@way("messages of alternating senders")
def _(server: Measured) -> None:
    some = [server.blocked("/senders") for _ in range(2)]
    for _ in range(2200):
        for each in some:  # one at a time, so that no two messages of a sender follow each other
            server.push(each, masked(2, b""))
            server.look()


@way("records for a page that reads nothing")
def _(server: Measured) -> None:
    server.websocket("/feed", server="watched")
    one = server.websocket(server="watched")
    for _ in range(5):
        server.push(one, masked(2, b"x" * 100) * 300)
        server.look()


# Incomplete messages, and messages that are not received


@way("tiny messages that are held back")
def _(server: Measured) -> None:
    server.blocked("/wait", size=200 * KIB)
    for _ in range(20):
        server.push(server.websocket("/wait"), masked(2, b"x") * 500)


@way("large messages that are held back", quick=True)
def _(server: Measured) -> None:
    server.blocked("/wait", size=200 * KIB)
    for _ in range(4):
        server.push(server.websocket("/wait"), masked(2, bytes(300_000)))


@way("tiny messages for a program that takes none")
def _(server: Measured) -> None:
    for _ in range(60):
        server.push(server.websocket("/handler"), masked(1, b"") * 1000)


@way("large messages for a program that takes none", quick=True)
def _(server: Measured) -> None:
    for _ in range(3):
        server.push(server.websocket("/handler"), masked(2, bytes(100_000)) * 20)


@way("messages for a program from clients that have gone")
def _(server: Measured) -> None:
    for _ in range(3):
        one = server.websocket("/handler")
        server.push(one, masked(2, bytes(100_000)) * 10)
        server.look()
        one.close()


@way("handlers whose clients have gone")
def _(server: Measured) -> None:
    some = [server.websocket("/handler") for _ in range(100)]
    server.look()
    for each in some:
        each.close()


@way("frames that have begun")
def _(server: Measured) -> None:
    for _ in range(5):
        server.push(server.websocket(), masked(2, bytes(500_000))[:300_000])


@way("frames of which 20 bytes have come", quick=True)
def _(server: Measured) -> None:
    for _ in range(300):
        server.push(server.websocket(), masked(1, b"x" * 1000)[:20])


@way("fragments of one byte")
def _(server: Measured) -> None:
    for _ in range(150):
        server.push(server.websocket(), masked(1, b"x", fin=False))


@way("messages in fragments", quick=True)
def _(server: Measured) -> None:
    for _ in range(5):
        fragments = masked(2, bytes(1000), fin=False) + masked(0, bytes(300), fin=False) * 500
        server.push(server.websocket("/handler"), fragments)


@way("compressed messages that have begun", quick=True)
def _(server: Measured) -> None:
    frame = compressed(base64.b64encode(random.Random(1).randbytes(50_000)), fin=False)
    for _ in range(20):
        server.push(server.websocket("/", DEFLATE), frame)


@way("compressed fragments of a few bytes")
def _(server: Measured) -> None:
    frame = compressed(bytes(1000), fin=False)
    for _ in range(20):
        server.push(server.websocket("/", DEFLATE), frame)


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Measured]:
    need(hasattr(ctypes.CDLL(None), "mallinfo2"), "glibc 2.33 or later")
    certificate = tmp_path_factory.mktemp("tls") / "certificate.pem"
    certificate.write_bytes(trustme.CA().issue_cert(LOOPBACK).private_key_and_cert_chain_pem.bytes())
    server = Measured(certificate)
    server.warm_up()
    yield server
    server.end()


@pytest.mark.parametrize(
    "title", [pytest.param(title, marks=() if title in QUICK else pytest.mark.thorough) for title in WAYS]
)
def test_the_bytes_counted_are_within_a_factor_of_the_bytes_used(measured: Measured, title: str) -> None:
    # On a busy machine, leftovers of earlier tests may go during the measurement, so a second one may be needed.
    for _ in range(3):
        before = measured.settle()
        WAYS[title](measured)
        now = measured.settle()
        measured.hang_up()
        counted, used = now["counted"] - before["counted"], now["used"] - before["used"]
        if used > 100 * KIB and 1 / 1.5 < counted / used < 1.5:
            return
    assert used > 100 * KIB, "too little to be compared"
    raise AssertionError(f"{counted} bytes are counted, and {used} are used")


def test_a_poll_that_is_not_read_takes_no_more_than_a_piece_of_its_answer(measured: Measured) -> None:
    before = measured.settle()
    WAYS["polls of control characters"](measured)
    now = measured.settle()
    measured.hang_up()
    assert now["used"] - before["used"] < 2 * MIB + 10 * 512 * KIB, "of 1 MB, and 6 MB as JSON, for each of ten"


# A backplane that is away


@pytest.mark.parametrize("size", [1, 1000])
def test_messages_that_wait_for_a_backplane_count_as_the_memory_that_they_use(size: int) -> None:
    def fill() -> Outbox:
        outbox, history = Outbox(1), History()
        for number in range(2000):
            payload, author = bytes([number % 256]) * size, Author("a1b2c3d4e5f6", number, number)
            message = Outgoing(
                "/room", Opcode.BINARY, payload, history, key=f"{number:0100}", once=IdempotencyKey(f"{number:0100}")
            )
            message.author = author
            outbox.put(message)
        return outbox

    with traced_memory() as count:
        outbox = fill()
        used, _ = count()
    assert 1 / 1.5 < outbox.waiting_bytes / used < 1.5


@pytest.mark.usefixtures("bounded")
async def test_connections_that_programs_have_finished_with_do_not_count(nursery: trio.Nursery) -> None:
    async def handler(ws: rawws.WebSocket) -> None:
        await ws.recv()

    server = await nursery.start(partial(rawws.serve, handler, 0, host=LOOPBACK))
    memory = current_loop().memory
    before = memory.used_bytes()
    gc.disable()  # a WebSocket is part of reference cycles
    try:
        for _ in range(3):
            async with rawws.connect(f"ws://{LOOPBACK}:{server.port}/") as ws:
                await ws.send("bye")
                await ws.wait_closed()
                assert memory.used_bytes() > before
        await trio.testing.wait_all_tasks_blocked()
        assert memory.used_bytes() == before
    finally:
        gc.enable()
    server.stop()
