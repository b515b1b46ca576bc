"""Requests over HTTP on connections that stay open, each with one request under way.

A client sends its next request when the answer has come. The answers of one server all have the same size, since a Date
has a fixed width, so they are counted by their bytes. One answer is checked in full before the counting starts, and
another one after its end.
"""

from __future__ import annotations

import socket

from benchmarks import wire
from benchmarks.load import BUFFER_BYTES, LoadError, Windows, close_clients, connect

BODY = b"hi there"


def get_request(port: int) -> bytes:
    """Return a request with the fields that the common client libraries send."""
    lines = [
        "GET /bench HTTP/1.1",
        f"Host: 127.0.0.1:{port}",
        "User-Agent: bench/1.0",
        "Accept: */*",
        "Accept-Encoding: gzip, deflate",
        "Accept-Language: en",
        "Cookie: session=5a1d3f1e",
    ]
    return "\r\n".join([*lines, "", ""]).encode()


def content_length(head: bytes) -> int:
    """Return the length of the body that the head announces; raise LoadError if it is no such head."""
    status, *fields = head.split(b"\r\n")
    if not status.startswith(b"HTTP/1.1 200 "):
        raise LoadError(f"expected the status 200, got {status[:100]!r}")
    for field in fields:
        name, _, value = field.partition(b":")
        if name.lower() == b"content-length":
            return int(value)
    raise LoadError(f"no Content-Length in {head[:200]!r}")


def read_answer(sock: socket.socket) -> bytes:
    """Read one answer from a blocking socket, check it, and return its bytes."""
    answer = b""
    while True:
        head, end, body = answer.partition(wire.END_OF_HEADERS)
        if end and len(body) >= content_length(head):
            break
        if not (data := sock.recv(BUFFER_BYTES)):
            raise LoadError(f"closed in an answer, after {answer[:100]!r}")
        answer += data
    if body != BODY:
        raise LoadError(f"expected the body {BODY!r}, got {body[:60]!r}")
    return answer


class Requests(Windows):
    """Connections to one server, open until `close` is called."""

    def __init__(self, port: int, connections: int) -> None:
        self.request = get_request(port)
        opened: list[socket.socket] = []
        try:
            for _ in range(connections):
                opened.append(connect(port))
            opened[0].sendall(self.request)
            super().__init__(opened, self.request, len(read_answer(opened[0])), window=1)
        except BaseException:
            close_clients(opened)
            raise

    def check(self) -> None:
        """Raise LoadError unless every connection is still open, and the next answer is like the first."""
        if self.closed:
            raise LoadError(f"the server closed {self.closed} of the connections")
        fd, sock = next(iter(self.clients.items()))
        sock.settimeout(10.0)
        missing = self.frame_bytes - self.partial[fd]
        while missing:
            if not (data := sock.recv(BUFFER_BYTES)):
                raise LoadError("the server closed a connection")
            if (missing := missing - len(data)) < 0:
                raise LoadError(f"the size of the answers changes: at first it was {self.frame_bytes} bytes")
        sock.sendall(self.request)
        if len(last := read_answer(sock)) != self.frame_bytes:
            raise LoadError(f"the size of the answers changes: at first {self.frame_bytes} bytes, at last {len(last)}")

    def close(self) -> None:
        self.poller.close()
        close_clients(list(self.clients.values()))
