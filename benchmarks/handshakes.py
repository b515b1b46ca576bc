"""Handshakes per second: connect, ask for the upgrade, read the 101, close with RST, and repeat.

A fixed number of them is under way at once. The RST keeps the ports out of TIME_WAIT, and avoids the closing
handshake, which is not measured.
"""

from __future__ import annotations

import select
import socket
from time import perf_counter

from benchmarks import wire
from benchmarks.load import POLL_S, TIMEOUT_S, LoadError, Sample, connect, read_handshake, reset


def check_one(port: int) -> None:
    """Check one answer in full; the others are only counted."""
    key = wire.new_key()
    sock = connect(port)
    sock.sendall(wire.upgrade_request(port, key))
    read_handshake(sock, key, deflate=False)
    reset(sock)


class Handshakes:
    def __init__(self, port: int, under_way: int) -> None:
        check_one(port)
        self.port = port
        self.request = wire.upgrade_request(port, wire.new_key())
        self.poller = select.epoll()
        self.clients: dict[int, socket.socket] = {}
        self.answers: dict[int, bytes] = {}
        for _ in range(under_way):
            self.begin()

    def begin(self) -> None:
        # The kernel completes a loopback connect by itself, so blocking in it does not wait for the server.
        sock = connect(self.port)
        sock.setblocking(False)
        sock.send(self.request)
        self.clients[sock.fileno()] = sock
        self.answers[sock.fileno()] = b""
        self.poller.register(sock.fileno(), select.EPOLLIN)

    def run(self, seconds: float) -> Sample:
        done = closed = 0
        begin = now = perf_counter()
        while now < begin + seconds or (not done and now < begin + TIMEOUT_S):
            for fd, _ in self.poller.poll(POLL_S):
                sock = self.clients[fd]
                try:
                    data = sock.recv(4096)
                except BlockingIOError:
                    continue
                except OSError:
                    data = b""
                answer = self.answers[fd] = self.answers[fd] + data
                if data and wire.END_OF_HEADERS not in answer:
                    continue
                if b" 101 " in answer[:16]:
                    done += 1
                elif (closed := closed + 1) > 100:
                    raise LoadError(f"handshakes are refused: {answer[:100]!r}")
                del self.clients[fd], self.answers[fd]
                reset(sock)
                self.begin()
            now = perf_counter()
        return Sample(done, now - begin, closed, 0)

    def close(self) -> None:
        for sock in self.clients.values():
            reset(sock)
