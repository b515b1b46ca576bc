"""The cost of a room's other encodings: events, POST, and the return of all readers at once.

    python -m benchmarks.rooms

Four figures of the same server in the same run, on one core with the load on the other:

* broadcast to 100 by WebSocket, 64 bytes a message, ten of them publishing;
* the same to 100 readers of Server-Sent Events: the same log, in another encoding;
* messages published by POST, over 32 connections that are kept alive, to one reader;
* 1,000 peers that come back together and each get the 1,000 messages they missed, by WebSocket with ids.
"""

from __future__ import annotations

import argparse
import os
import select
import socket
import sys
from collections.abc import Callable
from statistics import median
from time import perf_counter

from benchmarks import procinfo, servers, wire
from benchmarks.fanout import Fanout
from benchmarks.load import BUFFER_BYTES, LoadError, close_clients, connect, open_clients
from benchmarks.memory import allow_open_files
from benchmarks.servers import HOST, Running, Wish

READERS = 100
PUBLISHERS = 10
WINDOW = 8
PAYLOAD_BYTES = 64
POSTING = 32
RETURNING = 1000
MISSED = 1000
PATH = "/bench"
PATIENCE_S = 60.0  # for the first answers of a server whose disk is slow


def command(port: int) -> list[str]:
    flags = ["--hello", "", "--log-level", "warning", "--ping-interval", "0", "--no-compression", "--no-page"]
    return [sys.executable, "-m", "rawws", "--host", HOST, "--port", str(port), "--history", str(MISSED), *flags]


def ask(sock: socket.socket, request: bytes) -> bytes:
    """Send a request, and return the head of the answer and the bytes after it."""
    sock.sendall(request)
    answer = b""
    while wire.END_OF_HEADERS not in answer:
        data = sock.recv(65536)
        if not data:
            raise LoadError(f"closed after {answer!r}")
        answer += data
    return answer


def open_streams(port: int, count: int) -> list[socket.socket]:
    streams = []
    for _ in range(count):
        sock = connect(port)
        streams.append(sock)
        head = ask(sock, f"GET {PATH} HTTP/1.1\r\nHost: {HOST}\r\nAccept: text/event-stream\r\n\r\n".encode())
        if not head.startswith(b"HTTP/1.1 200 "):
            raise LoadError(f"no event stream: {head[:100]!r}")
    return streams


def by_websocket(server: Running, seconds: float) -> float:
    clients = open_clients(server.port, READERS)
    try:
        load = Fanout(clients, PUBLISHERS, WINDOW, PAYLOAD_BYTES)
        load.run(seconds / 2)
        return load.run(seconds).rate
    finally:
        close_clients(clients)


class Streamed(Fanout):
    """Publishers by WebSocket, and readers of events, whose events are counted."""

    def __init__(self, publishers: list[socket.socket], readers: list[socket.socket]) -> None:
        super().__init__(publishers, len(publishers), WINDOW, PAYLOAD_BYTES)
        self.readers = readers
        self.events = 0  # events of one reader
        self.first_bytes = 0  # the bytes of these events
        self.all_bytes = 0

    def stream(self, seconds: float) -> float:
        """Return events a second, over all readers."""
        buffer, readers = self.buffer, {sock.fileno(): sock for sock in self.readers}
        first = self.readers[0].fileno()
        for fd, sock in readers.items():
            sock.setblocking(False)
            self.poller.register(fd, select.EPOLLIN)
        begin = now = perf_counter()
        while now < begin + seconds:
            for fd, _ in self.poller.poll(0.05):
                reader = readers.get(fd)
                try:
                    if reader is None:
                        received = self.receive[fd]()
                        stream = self.streams[fd]
                        if stream is not None and (own := stream.own(buffer, received)):
                            self.publish(fd, own)
                        continue
                    received = reader.recv_into(buffer)
                except BlockingIOError:
                    continue
                if not received:
                    raise LoadError("the server closed a stream")
                self.all_bytes += received
                if fd == first:
                    self.first_bytes += received
                    self.events += buffer.count(b"\n\n", 0, received)
            now = perf_counter()
        for fd in readers:
            self.poller.unregister(fd)
        return self.events * self.all_bytes / self.first_bytes / (now - begin)


def by_events(server: Running, seconds: float) -> float:
    publishers = open_clients(server.port, PUBLISHERS)
    readers = open_streams(server.port, READERS)
    try:
        load = Streamed(publishers, readers)
        load.stream(seconds / 2)
        load.events = load.first_bytes = load.all_bytes = 0
        return load.stream(seconds)
    finally:
        close_clients([*publishers, *readers])


def by_post(server: Running, seconds: float, connections: int = POSTING) -> float:
    """Return messages published a second, one under way on each connection.

    With a slow disk it takes longer than these seconds: until as many were answered as there are connections.
    """
    payload = b"x" * PAYLOAD_BYTES
    head = f"POST {PATH} HTTP/1.1\r\nHost: {HOST}\r\nContent-Type: text/plain\r\nContent-Length: {len(payload)}\r\n\r\n"
    request = head.encode() + payload
    clients = [connect(server.port) for _ in range(connections)]
    reader: list[socket.socket] = []
    poller = select.epoll()
    try:
        if b" 202 " not in ask(clients[0], request).split(b"\r\n")[0]:
            raise LoadError("a POST was not accepted")
        reader = open_clients(server.port, 1)  # now that all messages of an earlier measurement have been relayed
        by_fd = {sock.fileno(): sock for sock in clients}
        for sock in [*clients, *reader]:
            poller.register(sock.fileno(), select.EPOLLIN)
        for sock in clients:
            sock.sendall(request)
        answered = 0
        begin = now = perf_counter()
        while now < begin + seconds or answered < connections:
            if now > begin + seconds + PATIENCE_S:
                raise LoadError(f"only {answered} of {connections} POSTs were answered")
            for fd, _ in poller.poll(0.05):
                if fd not in by_fd:
                    reader[0].recv(BUFFER_BYTES)
                    continue
                data = by_fd[fd].recv(65536)
                if not data.startswith(b"HTTP/1.1 202 "):
                    raise LoadError(f"a POST was not accepted: {data[:100]!r}")
                answered += 1
                by_fd[fd].sendall(request)
            now = perf_counter()
        for sock in clients:  # or else the messages would reach the readers of the next measurement at this server
            sock.recv(65536)
        return answered / (now - begin)
    finally:
        poller.close()
        close_clients([*clients, *reader])


def returning(server: Running, _: float) -> float:
    """Return how many messages a second reach peers that come back together, handshakes included."""
    publisher = connect(server.port)
    for _ in range(MISSED):
        publisher.sendall(
            f"POST {PATH} HTTP/1.1\r\nHost: {HOST}\r\nContent-Type: text/plain\r\nContent-Length: 64\r\n\r\n".encode()
            + b"y" * 64
        )
        while wire.END_OF_HEADERS not in publisher.recv(65536):
            pass
    clients = [connect(server.port) for _ in range(RETURNING)]
    path = f"{PATH}?last={MISSED}"
    request = wire.upgrade_request(server.port, wire.new_key(), path=path, subprotocol="rawws.id.v1")
    counts = dict.fromkeys((sock.fileno() for sock in clients), 0)
    by_fd = {sock.fileno(): sock for sock in clients}
    poller = select.epoll()
    begin = perf_counter()
    try:
        for sock in clients:
            sock.sendall(request)
            poller.register(sock.fileno(), select.EPOLLIN)
        missing = RETURNING
        while missing:
            if perf_counter() - begin > 60:
                raise LoadError(f"{missing} peers did not get all in a minute")
            for fd, _ in poller.poll(1.0):
                data = by_fd[fd].recv(BUFFER_BYTES)
                counts[fd] += data.count(b'{"id":')
                if counts[fd] == MISSED or not data:
                    poller.unregister(fd)
                    missing -= 1
        if any(count != MISSED for count in counts.values()):
            raise LoadError("somebody did not get all that he missed")
        return RETURNING * MISSED / (perf_counter() - begin)
    finally:
        close_clients([*clients, publisher])


MEASURES: list[tuple[str, str, Callable[[Running, float], float]]] = [
    ("broadcast to 100 by WebSocket, 64 B", "deliveries/s", by_websocket),
    ("broadcast to 100 by Server-Sent Events", "deliveries/s", by_events),
    ("published by POST, 32 connections", "messages/s", by_post),
    ("1,000 peers return, each for 1,000 messages", "messages/s", returning),
]


def measure(seconds: float, rounds: int) -> list[float]:
    found: list[list[float]] = [[] for _ in MEASURES]
    for _ in range(rounds):
        for figures, (_, _, take) in zip(found, MEASURES, strict=True):
            port = servers.free_port()
            with servers.running("rawws", command(port), port, Wish(broadcast=True), handshake=True) as server:
                figures.append(take(server, seconds))
    return [median(figures) for figures in found]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=2.0, help="measured for each figure (default 2)")
    parser.add_argument("--rounds", type=int, default=3, help="of which the median counts (default 3)")
    options = parser.parse_args()
    allow_open_files()
    os.sched_setaffinity(0, {procinfo.cores()[1]})
    figures = measure(options.seconds, options.rounds)
    for (title, unit, _), figure in zip(MEASURES, figures, strict=True):
        print(f"{title:<46}{figure:>14,.0f} {unit}")
    print(f"{'events ÷ WebSocket':<46}{figures[1] / figures[0]:>14.2f} ×")


if __name__ == "__main__":
    main()
