"""Ten thousand idle peers and a hundred busy ones on one node: its memory above that of an empty server.

All are WebSockets, and the node has its defaults, so it pings the idle peers now and then, and they answer. Each busy
peer sends ten messages a second to all hundred of them. The peak memory of the process since its start is counted,
without the kernel's buffers.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
import select
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks import procinfo, servers, wire
from benchmarks.load import ARRIVING, BUFFER_BYTES, LoadError, close_clients, connect, read_handshake
from benchmarks.memory import SPARE_FILES, allow_open_files
from benchmarks.rooms import ask
from benchmarks.servers import HOST, Running, Unavailable, Wish

BUSY = 100
PER_S = 10.0  # messages of each busy peer
SMALLEST_BYTES, LARGEST_BYTES = 16, 2048
MOST_MIB = 64.0
# A ping has to be answered within 20 s. The busy peers don't parse their input, and send unsolicited pongs.
PONG_EVERY_S = 10.0
TURN_S = 0.01
IDLE_PATH, BUSY_PATH = "/idle", "/busy"
MIB = 2**20


def enter(port: int, path: str, count: int) -> list[socket.socket]:
    """Open this many WebSockets in a room."""
    clients: list[socket.socket] = []
    try:
        while len(clients) < count:
            fresh = []
            for _ in range(min(ARRIVING, count - len(clients))):
                sock, key = connect(port), wire.new_key()
                clients.append(sock)
                sock.sendall(wire.upgrade_request(port, key, path=path))
                fresh.append((sock, key))
            for sock, key in fresh:
                read_handshake(sock, key, deflate=False)
    except BaseException:
        close_clients(clients)
        raise
    return clients


class Talk:
    """The traffic of the busy peers, and the pings of the idle ones."""

    def __init__(self, idle: list[socket.socket], busy: list[socket.socket]) -> None:
        self.pings = 0  # answered by the idle peers
        self.said = 0
        self.heard_bytes = dict.fromkeys((sock.fileno() for sock in busy), 0)
        self.said_bytes = 0  # as they are heard
        self._clients = {sock.fileno(): sock for sock in [*idle, *busy]}
        self._busy = busy
        self._poller = select.epoll()
        for sock in self._clients.values():
            sock.setblocking(False)
            self._poller.register(sock.fileno(), select.EPOLLIN)
        self._pong = wire.client_frame(b"rawws", wire.FIN | wire.PONG)
        chance = random.Random(1)
        payloads = [chance.randbytes(chance.randint(SMALLEST_BYTES, LARGEST_BYTES)) for _ in range(100)]
        first = wire.FIN | wire.BINARY
        self._frames = [(wire.client_frame(each, first), len(wire.server_frame(each))) for each in payloads]

    def run(self, seconds: float) -> None:
        begin = time.perf_counter()
        pong_at = begin + PONG_EVERY_S
        while (now := time.perf_counter()) < begin + seconds:
            while self.said < (now - begin) * PER_S * len(self._busy):
                self._say_something()
            if now >= pong_at:
                pong_at = now + PONG_EVERY_S
                for sock in self._busy:
                    sock.send(self._pong)
            self._hear(TURN_S)
        until = time.perf_counter() + 5
        while min(self.heard_bytes.values()) < self.said_bytes and time.perf_counter() < until:
            self._hear(TURN_S)

    def _say_something(self) -> None:
        frame, heard_bytes = self._frames[self.said % len(self._frames)]
        sent = self._busy[self.said % len(self._busy)].send(frame)
        if sent < len(frame):
            raise LoadError("the server has stopped reading")
        self.said += 1
        self.said_bytes += heard_bytes

    def _hear(self, wait_s: float) -> None:
        for fd, _ in self._poller.poll(wait_s):
            sock = self._clients[fd]
            if not (data := sock.recv(BUFFER_BYTES)):
                raise LoadError("the server has closed a connection")
            if fd in self.heard_bytes:
                self.heard_bytes[fd] += len(data)
            else:
                self.pings += 1
                sock.send(self._pong)


def peak_bytes(pid: int) -> int:
    """Return the peak memory of the process so far."""
    found = re.search(r"^VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    assert found is not None, "the kernel doesn't say"
    return int(found[1]) * 1024


def peers_in(port: int, path: str) -> int:
    """Return how many peers are in a room."""
    with contextlib.closing(connect(port)) as sock:
        answer = ask(sock, f"GET {path}?peers HTTP/1.1\r\nHost: {HOST}\r\n\r\n".encode())
    count: int = json.loads(answer.partition(wire.END_OF_HEADERS)[2])["peers"]
    return count


@contextmanager
def node() -> Iterator[Running]:
    port = servers.free_port()
    flags = ["--host", HOST, "--port", str(port), "--hello", "", "--log-level", "warning"]
    command = [sys.executable, "-m", "rawws", *flags]
    with servers.running("rawws", command, port, Wish(broadcast=True), handshake=True) as running:
        yield running


def measure(idle: int, seconds: float) -> int:
    """Print the memory, and return 1 if it is too much."""
    if (files := allow_open_files()) < idle + BUSY + SPARE_FILES:
        raise Unavailable(f"It needs {idle + BUSY + SPARE_FILES} open files, and may have {files} (ulimit -n).")
    os.sched_setaffinity(0, {procinfo.cores()[1]})
    with node() as server, contextlib.ExitStack() as stack:
        empty = procinfo.resident_bytes(server.pid)
        print(f"{'an empty server':<50}{empty / MIB:>10.1f} MiB", flush=True)
        idlers = enter(server.port, IDLE_PATH, idle)
        stack.callback(close_clients, idlers)
        print(f"{f'with {idle:,} idle peers':<50}{procinfo.resident_bytes(server.pid) / MIB:>10.1f} MiB", flush=True)
        busy = enter(server.port, BUSY_PATH, BUSY)
        stack.callback(close_clients, busy)
        talk = Talk(idlers, busy)
        talk.run(seconds)
        peak = peak_bytes(server.pid)
        there = peers_in(server.port, IDLE_PATH), peers_in(server.port, BUSY_PATH)
    above = (peak - empty) / MIB
    print(f"{f'and {BUSY} busy ones, at most':<50}{peak / MIB:>10.1f} MiB")
    print(f"{'above an empty server':<50}{above:>10.1f} MiB, of {MOST_MIB:g}")
    print(f"{'messages of the busy ones, each to all of them':<50}{talk.said:>10,} in {seconds:g} s")
    print(f"{'pings that the idle ones answered':<50}{talk.pings:>10,}")
    print(f"{'peers at the end':<50}{sum(there):>10,}")
    if (lacking := talk.said_bytes - min(talk.heard_bytes.values())) > 0:
        print(f"a busy one lacks {lacking:,} bytes of what was said")
    return 1 if above > MOST_MIB or there != (idle, BUSY) or lacking > 0 else 0
