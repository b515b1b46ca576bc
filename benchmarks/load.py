"""The load: many clients in one process on raw non-blocking sockets and epoll.

The load must cost less than the server. So frames are built beforehand and sent in batches, all bytes are received into
one buffer, and messages are counted by their bytes: the frames of a case all have the same size on the wire. One
message is checked in full before the counting starts, so that a server that is fast because it is wrong gets no figure.
Each figure comes with the share of its core that the load used.
"""

from __future__ import annotations

import contextlib
import functools
import select
import socket
import ssl
import struct
from collections.abc import Callable
from dataclasses import dataclass
from time import perf_counter

from benchmarks import wire
from benchmarks.servers import HOST, Unavailable

BUFFER_BYTES = 2**20
# Handshakes under way while the clients arrive: below the servers' shortest listen backlog, asyncio's 100.
ARRIVING = 32
TIMEOUT_S = 60.0
# After this time without data, messages were lost; the windows are filled again.
STALL_S = 0.5
POLL_S = 0.05


class LoadError(Exception):
    """The server gave another answer than the case expects."""


@dataclass(frozen=True)
class Sample:
    """The messages received in one measured period."""

    messages: float
    seconds: float
    closed: int  # clients that the server has dropped by the end
    stalls: int  # times that nothing came for STALL_S

    @property
    def rate(self) -> float:
        return self.messages / self.seconds


def client_tls() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE  # the certificate is made for the run; its cost is the server's
    return context


def connect(port: int, tls: ssl.SSLContext | None = None, receive_buffer: int = 0) -> socket.socket:
    sock = socket.socket()
    sock.settimeout(TIMEOUT_S)
    if receive_buffer:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    sock.connect((HOST, port))
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return tls.wrap_socket(sock) if tls else sock


def open_clients(
    port: int, count: int, *, deflate: bool = False, tls: bool = False, receive_buffer: int = 0
) -> list[socket.socket]:
    """Open this many WebSocket connections and check each handshake; the sockets are still blocking."""
    context = client_tls() if tls else None
    clients: list[socket.socket] = []
    try:
        while len(clients) < count:
            fresh = []
            for _ in range(min(ARRIVING, count - len(clients))):
                sock = connect(port, context, receive_buffer)
                clients.append(sock)
                key = wire.new_key()
                sock.sendall(wire.upgrade_request(port, key, deflate=deflate))
                fresh.append((sock, key))
            for sock, key in fresh:
                read_handshake(sock, key, deflate)
    except BaseException:
        close_clients(clients)
        raise
    return clients


def read_handshake(sock: socket.socket, key: bytes, deflate: bool) -> None:
    answer = b""
    while wire.END_OF_HEADERS not in answer:
        data = sock.recv(4096)
        if not data:
            raise LoadError(f"closed in the handshake after {answer!r}")
        answer += data
    head, _, rest = answer.partition(wire.END_OF_HEADERS)
    if not head.startswith(b"HTTP/1.1 101 ") or wire.accept_value(key) not in head:
        raise LoadError(f"no 101 with the right accept value: {head[:200]!r}")
    if rest:
        raise LoadError(f"unasked bytes after the handshake: {rest[:60]!r}")
    if deflate and b"server_no_context_takeover" not in head:
        raise Unavailable("does not agree to permessage-deflate without context takeover")
    if not deflate and b"permessage-deflate" in head:
        raise LoadError("answered an extension that was not offered")


def close_clients(clients: list[socket.socket]) -> None:
    for sock in clients:
        reset(sock)


def reset(sock: socket.socket) -> None:
    """Close with RST, so that thousands of connections don't leave their ports in TIME_WAIT."""
    with contextlib.suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


def expect_message(sock: socket.socket, payload: bytes, opcode: int = wire.TEXT) -> bytes:
    """Read one message, check that it is this one, and return its frame unchanged."""
    data = bytearray()
    while (bounds := wire.frame_end(data, 0, len(data))) is None:
        chunk = sock.recv(BUFFER_BYTES)
        if not chunk:
            raise LoadError("closed before the first message")
        data += chunk
    if bounds[1] != len(data):
        raise LoadError(f"{len(data) - bounds[1]} bytes too many after the first message")
    first, received = data[0], bytes(data[bounds[0] :])
    if first & wire.RSV1:
        received = wire.inflate(received)
    if first & ~wire.RSV1 != wire.FIN | opcode or received != payload:
        raise LoadError(f"expected {opcode:#x} {payload[:40]!r}, got {first:#04x} {received[:40]!r}")
    return bytes(data)


def receiver(sock: socket.socket, buffer: bytearray) -> Callable[[], int]:
    """Return a function that reads the available bytes into the buffer, and returns their number.

    It raises BlockingIOError if there is nothing, and returns 0 at the end.
    """
    if not isinstance(sock, ssl.SSLSocket):
        # A partial is faster than a lambda, and this call is most of the load's work.
        return functools.partial(sock.recv_into, buffer)
    secured, view = sock, memoryview(buffer)

    def receive() -> int:
        try:
            received = secured.recv_into(view)
            # The rest of a decrypted record is invisible to epoll.
            while secured.pending():
                received += secured.recv_into(view[received:])
        except ssl.SSLWantReadError:
            raise BlockingIOError from None
        return received

    return receive


class Windows:
    """Every client keeps `window` messages under way, and sends the next when the answer to one has come.

    All answers have `frame_bytes` bytes on the wire.
    """

    def __init__(self, clients: list[socket.socket], message: bytes, frame_bytes: int, window: int) -> None:
        self.frame_bytes = frame_bytes
        self.sent_bytes = len(message)
        # The repeated message, long enough for any bytes that one client may have to send.
        self.stream = memoryview(message * (window + 1))
        size = max(sock.fileno() for sock in clients) + 1
        self.buffer = bytearray(BUFFER_BYTES)
        self.receive: list[Callable[[], int]] = [int] * size
        self.partial = [0] * size  # bytes of a message not yet complete, by file descriptor
        self.owed = [0] * size  # bytes that this client has yet to send
        self.offset = [0] * size  # where in a frame the sending stopped
        self.clients = {sock.fileno(): sock for sock in clients}
        self.poller = select.epoll()
        self.messages = self.closed = self.stalls = 0
        for fd, sock in self.clients.items():
            sock.setblocking(False)
            self.receive[fd] = receiver(sock, self.buffer)
            self.poller.register(fd, select.EPOLLIN)
        for fd in self.clients:
            self.send(fd, window * self.sent_bytes)

    def send(self, fd: int, size: int) -> None:
        owed, offset = self.owed[fd] + size, self.offset[fd]
        try:
            sent = self.clients[fd].send(self.stream[offset : offset + owed])
        except (BlockingIOError, ssl.SSLWantWriteError):
            sent = 0
        except OSError:
            return  # its end will be read in the next turn
        if sent < owed and not self.owed[fd]:
            self.poller.modify(fd, select.EPOLLIN | select.EPOLLOUT)
        elif sent == owed and self.owed[fd]:
            self.poller.modify(fd, select.EPOLLIN)
        self.owed[fd] = owed - sent
        self.offset[fd] = (offset + sent) % self.sent_bytes

    def run(self, seconds: float, at_least: int = 1) -> Sample:
        """Run for this time, and until so many messages have arrived: a machine may stall for 0.1 s."""
        poll, receive, partial = self.poller.poll, self.receive, self.partial
        frame_bytes, sent_bytes = self.frame_bytes, self.sent_bytes
        begin_messages, begin_partial = self.messages, sum(partial)
        begin = now = heard = perf_counter()
        deadline, enough = begin + seconds, begin_messages + at_least
        while now < deadline or (self.messages < enough and now < begin + TIMEOUT_S):
            for fd, events in poll(POLL_S):
                if events & select.EPOLLOUT and self.owed[fd]:
                    self.send(fd, 0)
                if not events & ~select.EPOLLOUT:
                    continue
                try:
                    received = receive[fd]()
                except BlockingIOError:
                    continue
                except OSError:
                    received = 0
                heard = now
                if not received:
                    self.lose(fd)
                    continue
                count, partial[fd] = divmod(partial[fd] + received, frame_bytes)
                if count:
                    self.messages += count
                    self.send(fd, count * sent_bytes)
            now = perf_counter()
            if now - heard > STALL_S:
                self.stalls += 1
                heard = now
        # Parts of messages count too: a megabyte is long.
        parts = (sum(partial) - begin_partial) / frame_bytes
        return Sample(self.messages - begin_messages + parts, now - begin, self.closed, self.stalls)

    def lose(self, fd: int) -> None:
        self.closed += 1
        self.partial[fd] = 0
        self.poller.unregister(fd)
        self.clients.pop(fd).close()
        if not self.clients:
            raise LoadError("the server closed every connection")


class Echo(Windows):
    """The messages are frames of WebSocket, and each answer is the same message."""

    def __init__(self, clients: list[socket.socket], payload: bytes, window: int, opcode: int) -> None:
        frame = wire.client_frame(payload, wire.FIN | opcode)
        clients[0].sendall(frame)
        super().__init__(clients, frame, len(expect_message(clients[0], payload, opcode)), window)
