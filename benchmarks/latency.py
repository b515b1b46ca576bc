"""A steady trickle to many readers: how old is a message when each of them gets it?

One publisher sends on a fixed beat, whether or not the last message has arrived everywhere, so a slow
server can't slow down its own questions. The time is in the message; each reader stamps at its own arrival,
in the same process and by the same clock. The last reader of a thousand waits for 999 sends: that is part of
the figure.
"""

from __future__ import annotations

import select
import socket
from array import array
from dataclasses import dataclass
from time import perf_counter, perf_counter_ns

from benchmarks import wire
from benchmarks.load import BUFFER_BYTES, LoadError, expect_message

STAMP_DIGITS = 20


@dataclass(frozen=True)
class Ages:
    """Ages at arrival in nanoseconds, sorted."""

    sorted_ns: array[int]
    expected: int  # arrivals if every message had arrived by the end
    closed: int

    def percentile_ms(self, percent: float) -> float:
        if not self.sorted_ns:
            raise LoadError("nothing arrived")
        return self.sorted_ns[min(len(self.sorted_ns) - 1, int(len(self.sorted_ns) * percent / 100))] / 1e6


def stamped(size: int) -> bytes:
    return f"{perf_counter_ns():0{STAMP_DIGITS}d}".encode().ljust(size, b".")


class Trickle:
    """Clients that all read, one that also publishes `per_second` messages a second."""

    def __init__(
        self,
        clients: list[socket.socket],
        per_second: float,
        payload_bytes: int,
        envelope: tuple[bytes, bytes] = (b"", b""),
    ) -> None:
        """`envelope` is what a server's own protocol has around each text, the same in both directions."""
        self.before, self.behind = envelope
        first = self.before + stamped(payload_bytes) + self.behind
        clients[0].sendall(wire.client_frame(first))
        sizes = {len(expect_message(sock, first)) for sock in clients}
        if len(sizes) > 1:
            raise LoadError(f"one message, several sizes on the wire: {sizes}")
        self.frame_bytes = sizes.pop()
        self.payload_bytes = payload_bytes
        self.beat = 1 / per_second
        self.publisher = clients[0]
        self.poller = select.epoll()
        self.clients = {sock.fileno(): sock for sock in clients}
        self.rest = dict.fromkeys(self.clients, b"")
        self.closed = 0
        for fd, sock in self.clients.items():
            sock.setblocking(False)
            self.poller.register(fd, select.EPOLLIN)

    def run(self, seconds: float) -> Ages:
        """Publish for this time, then wait at most a second for messages under way."""
        ages: array[int] = array("q")
        buffer = bytearray(BUFFER_BYTES)
        poll, clients, rest = self.poller.poll, self.clients, self.rest
        frame_bytes = self.frame_bytes
        stamp_at = frame_bytes - self.payload_bytes - len(self.behind)
        stamp_end = stamp_at + STAMP_DIGITS
        expected = 0
        begin = due = now = perf_counter()
        while now < begin + seconds + 1:
            if due <= now and due < begin + seconds:
                message = self.before + stamped(self.payload_bytes) + self.behind
                self.publisher.send(wire.client_frame(message))
                expected += len(clients)
                due += self.beat
            elif due >= begin + seconds and len(ages) >= expected:
                break
            for fd, _ in poll(max(0.0, min(due - now, 0.05)) if due > now else 0.0):
                try:
                    received = clients[fd].recv_into(buffer)
                except BlockingIOError:
                    continue
                except OSError:
                    received = 0
                arrived = perf_counter_ns()
                if received == frame_bytes and not rest[fd]:
                    ages.append(arrived - int(buffer[stamp_at:stamp_end]))
                elif received:
                    data = rest[fd] + buffer[:received]
                    whole = len(data) // frame_bytes * frame_bytes
                    for start in range(0, whole, frame_bytes):
                        ages.append(arrived - int(data[start + stamp_at : start + stamp_end]))
                    rest[fd] = data[whole:]
                else:
                    self.lose(fd)
            now = perf_counter()
        return Ages(array("q", sorted(ages)), expected, self.closed)

    def lose(self, fd: int) -> None:
        self.closed += 1
        self.poller.unregister(fd)
        sock = self.clients.pop(fd)
        sock.close()
        if sock is self.publisher:
            raise LoadError("the server closed the publisher")
