"""What is counted as held (`--max-memory`, `rawws_held_bytes`) is what the process grows by, for whatever makes it grow.

Each surface is driven over real sockets against `memory_server.py`, a process of its own.
"""

from __future__ import annotations

import base64
import json
import socket
import ssl
import subprocess
import sys
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import trustme

from tests.serving import LOOPBACK, PATIENCE_S, get, masked, upgrade

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
        self.tls = ssl.create_default_context()
        self.tls.check_hostname, self.tls.verify_mode = False, ssl.CERT_NONE
        self._open: list[socket.socket] = []

    def end(self) -> None:
        self.hang_up()
        self._process.communicate(timeout=PATIENCE_S)

    def hang_up(self) -> None:
        for each in self._open:
            each.close()
        self._open.clear()

    def look(self, how: str = "-") -> dict[str, int]:
        """Ask the server, which takes a turn to answer; what the process has in use takes it longer."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(f"{how}\n")
        self._process.stdin.flush()
        told: dict[str, int] = json.loads(self._process.stdout.readline())
        return told

    def settle(self) -> dict[str, int]:
        """Look until nothing changes any more: what was sent has been read, as far as it will be."""
        same, before = 0, self.look()
        while same < 5:
            now = self.look()
            same, before = same + 1 if now == before else 0, now
        return self.look("m")

    # Clients, which read nothing but the answer to a handshake

    def connect(self, server: str = "rooms") -> socket.socket:
        connected = socket.socket()
        connected.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connected.settimeout(PATIENCE_S)
        connected.connect((LOOPBACK, self.ports[server]))
        if server == "tls":
            connected = self.tls.wrap_socket(connected)
        self._open.append(connected)
        return connected

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
        """Open a WebSocket in a room whose socket takes no more, since it doesn't read what it says itself."""
        connected = self.websocket(path, *lines, server=server)
        self.push(connected, masked(2, bytes(size)))
        return connected


# The surfaces


def deflated(data: bytes) -> bytes:
    deflate = zlib.compressobj(9, zlib.DEFLATED, -15)
    return (deflate.compress(data) + deflate.flush(zlib.Z_SYNC_FLUSH))[:-4]


def idle_websockets(server: Measured) -> None:
    for _ in range(300):
        server.websocket()


def websockets_that_have_spoken(server: Measured) -> None:
    for number in range(300):
        server.push(server.websocket(f"/{number}"), masked(2, b"x"))


def idle_handlers(server: Measured) -> None:
    for _ in range(100):
        server.websocket("/handler")


def handlers_with_long_heads(server: Measured) -> None:
    for _ in range(50):
        server.websocket("/handler", *(f"x-{number}: {'y' * 150}" for number in range(80)))


def idle_tls_websockets(server: Measured) -> None:
    for _ in range(100):
        server.websocket(server="tls")


def idle_event_streams(server: Measured) -> None:
    for _ in range(200):
        server.request(get("/e", "Accept: text/event-stream"))


def idle_http_connections(server: Measured) -> None:
    for _ in range(100):
        server.request(b"\r\n")


def http_connections_between_requests(server: Measured) -> None:
    for _ in range(100):
        server.request(get("/healthz"))


def heads_that_drip(server: Measured) -> None:
    for _ in range(100):
        server.request(get("/", f"x: {'y' * 8000}")[:-10])


def heads_of_many_lines_that_drip(server: Measured) -> None:
    for _ in range(100):
        server.request(get("/", *(f"x-{number}: {'y' * 150}" for number in range(80)))[:-4])


def requests_that_are_not_answered(server: Measured) -> None:
    for _ in range(50):
        server.request(get("/", *(f"x-{number}: {'y' * 150}" for number in range(80))), "http")


def short_requests_that_are_not_answered(server: Measured) -> None:
    for _ in range(100):
        server.request(get("/"), "http")


def pipelined_requests_that_wait(server: Measured) -> None:
    for _ in range(100):
        server.request(get("/p?last=1&wait=30") + get("/p") * 300)


def polls_that_wait(server: Measured) -> None:
    for _ in range(100):
        server.request(get("/polled?last=1&wait=30"))


def bodies_being_received(server: Measured) -> None:
    head = get("/b", "Content-Length: 1000000", "Content-Type: text/plain", method="POST")
    for _ in range(10):
        server.request(head + bytes(500_000))


def bodies_of_tiny_chunks(server: Measured) -> None:
    head = get("/b", "Transfer-Encoding: chunked", "Content-Type: text/plain", method="POST")
    for _ in range(5):
        server.request(head + b"1\r\nx\r\n" * 20_000)


def bodies_that_are_being_handled(server: Measured) -> None:
    head = get("/", "Content-Length: 500000", method="POST")
    for _ in range(10):
        server.request(head + bytes(500_000), "http")


def bodies_that_wait_for_a_slow_room(server: Measured) -> None:
    server.blocked("/wait", size=200 * KIB)
    for _ in range(5):
        server.request(get("/wait", "Content-Length: 500000", method="POST") + bytes(500_000))


def pongs(server: Measured) -> None:
    for number in range(10):
        one = server.blocked(f"/{number}")
        for _ in range(40):
            server.push(one, masked(9) * 50)
            server.look()


def large_pongs(server: Measured) -> None:
    for number in range(10):
        one = server.blocked(f"/{number}")
        for _ in range(20):
            server.push(one, masked(9, bytes(125)) * 100)


def pongs_through_tls(server: Measured) -> None:
    for number in range(10):
        one = server.blocked(f"/{number}", server="tls")
        for _ in range(40):
            server.push(one, masked(9) * 50)


def pongs_of_a_handler(server: Measured) -> None:
    for _ in range(10):
        one = server.websocket("/echoes")
        server.push(one, masked(2, bytes(100_000)))
        for _ in range(40):
            server.push(one, masked(9) * 50)


def tiny_echoes(server: Measured) -> None:
    for _ in range(10):
        one = server.websocket(server="echo")
        server.push(one, masked(2, bytes(100_000)))
        for _ in range(20):
            server.push(one, masked(2, b"x") * 500)


def large_echoes(server: Measured) -> None:
    for _ in range(5):
        server.push(server.websocket(server="echo"), masked(2, bytes(1_000_000)))


def tiny_echoes_of_a_handler(server: Measured) -> None:
    for _ in range(10):
        server.push(server.websocket("/echoes"), masked(2, b"") * 20_000)


def presence(server: Measured) -> None:
    watchers = [
        server.websocket("/presence?presence", "Sec-WebSocket-Protocol: rawws.id.v1") for _ in range(20)
    ]
    server.push(watchers[0], masked(2, bytes(32 * KIB)))
    for _ in range(100):
        server.websocket("/presence").close()
        server.look()


def a_room_that_is_read_slowly(server: Measured) -> None:
    server.push(server.blocked("/slow"), masked(2, bytes(1000)) * 5000)


def tiny_messages_that_are_read_slowly(server: Measured) -> None:
    one = server.blocked("/slow")
    for _ in range(2000):
        server.push(one, masked(2, b""))
        server.look()


def events_that_are_read_slowly(server: Measured) -> None:
    server.request(get("/events", "Accept: text/event-stream"))
    server.push(server.blocked("/events"), masked(2, bytes(1000)) * 2000)


def places_within_a_segment(server: Measured) -> None:
    one = server.blocked("/history")
    server.push(one, masked(2, bytes(1000)) * 200)
    for _ in range(20):
        server.websocket("/history?last=150")


def private_copies(server: Measured) -> None:
    server.push(server.blocked("/h"), masked(2, bytes(1000)) * 200)
    for _ in range(20):
        server.websocket("/h?last=150")


def newest_by_key(server: Measured) -> None:
    server.push(
        server.blocked("/latest"), b"".join(masked(1, json.dumps({"k": n}).encode()) for n in range(5000))
    )


def senders_apart(server: Measured) -> None:
    a, b = server.blocked("/senders"), server.blocked("/senders")
    for _ in range(500):
        server.push(a, masked(2, b""))
        server.push(b, masked(2, b""))
        server.look()


def held_back_publishers(server: Measured) -> None:
    server.blocked("/wait", size=200 * KIB)
    for _ in range(50):
        server.push(server.websocket("/wait"), masked(2, b"x") * 500)


def large_messages_held_back(server: Measured) -> None:
    server.blocked("/wait", size=200 * KIB)
    for _ in range(5):
        server.push(server.websocket("/wait"), masked(2, bytes(500_000)))


def tiny_messages_for_a_handler(server: Measured) -> None:
    for _ in range(200):
        server.push(server.websocket("/handler"), masked(1, b"") * 1000)


def large_messages_for_a_handler(server: Measured) -> None:
    for _ in range(5):
        server.push(server.websocket("/handler"), masked(2, bytes(200_000)) * 20)


def handlers_of_clients_that_have_gone(server: Measured) -> None:
    for _ in range(5):
        one = server.websocket("/handler")
        server.push(one, masked(2, bytes(200_000)) * 10)
        server.look()
        one.close()


def begun_frames(server: Measured) -> None:
    for _ in range(10):
        server.push(server.websocket(), masked(2, bytes(500_000))[:300_000])


def barely_begun_frames(server: Measured) -> None:
    for _ in range(200):
        server.push(server.websocket(), masked(1, b"x" * 1000)[:20])


def begun_messages(server: Measured) -> None:
    for _ in range(200):
        server.push(server.websocket(), masked(1, b"x", fin=False))


def begun_messages_of_a_handler(server: Measured) -> None:
    for _ in range(10):
        server.push(server.websocket("/handler"), masked(2, bytes(1000), fin=False) + masked(0, bytes(300), fin=False) * 500)


def begun_compressed_messages(server: Measured) -> None:
    frame = bytearray(masked(2, deflated(base64.b64encode(bytes(range(256)) * 200)), fin=False))
    frame[0] |= 0x40
    for _ in range(50):
        server.push(server.websocket("/", DEFLATE), bytes(frame))


def begun_frames_through_tls(server: Measured) -> None:
    for _ in range(50):
        server.push(server.websocket(server="tls"), masked(2, bytes(100_000))[:50_000])


def rooms_with_long_names(server: Measured) -> None:
    one = server.connect()
    for number in range(300):
        one.sendall(get(f"/{number}{'x' * 7000}?last=1"))
        one.recv(65536)


def rooms_with_short_names(server: Measured) -> None:
    one = server.connect()
    for number in range(1000):
        one.sendall(get(f"/{number}?last=1"))
        one.recv(65536)


def rooms_that_somebody_is_in(server: Measured) -> None:
    for number in range(200):
        server.websocket(f"/{number}{'x' * 5000}")


def idempotency_keys(server: Measured) -> None:
    one = server.connect()
    for number in range(900):
        one.sendall(get("/keys", f"Idempotency-Key: {number:0200}", "Content-Length: 0", method="POST"))
        one.recv(65536)


def polls_of_control_characters(server: Measured) -> None:
    one = server.websocket("/history", DEFLATE)
    frame = bytearray(masked(1, deflated(b"\x01" * 1_000_000)))
    frame[0] |= 0x40
    server.push(one, bytes(frame))
    server.look()
    for _ in range(10):
        server.request(get("/history?last=1"))


def polls_of_many_messages(server: Measured) -> None:
    one = server.websocket("/history")
    server.push(one, masked(1, b"x" * 1000) * 500)
    server.look()
    for number in range(10):
        server.request(get(f"/history?last={500 - number}"))


SURFACES = [
    value
    for name, value in list(globals().items())
    if callable(value)
    and getattr(value, "__module__", "") == __name__
    and name not in ("Measured", "deflated")
]


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Measured]:
    certificate = tmp_path_factory.mktemp("tls") / "certificate.pem"
    issued = trustme.CA().issue_cert(LOOPBACK)
    certificate.write_bytes(issued.private_key_and_cert_chain_pem.bytes())
    server = Measured(certificate)
    yield server
    server.end()
