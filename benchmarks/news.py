"""The two ways to follow one feed that push_vs_poll compares: frames that come, and requests that ask.

The publisher and all readers live in this process, on its one clock: a piece of news carries the time at
which it was published, a reader subtracts that from the time at which it has it.
"""

from __future__ import annotations

import heapq
import json
import select
import socket
import struct
from array import array
from collections.abc import Callable
from dataclasses import dataclass, field
from time import perf_counter, perf_counter_ns

from benchmarks import wire
from benchmarks.load import LoadError, close_clients, connect, open_clients

TEXT = "The ship that was expected on Thursday has been seen off the northern cape. "
# The headers of each segment: Ethernet 14, IPv4 20, TCP 20 and its timestamps 12.
HEADERS_A_SEGMENT = 66
# The offsets of bytes_acked and bytes_received, and of segs_out and segs_in, in tcp_info of <linux/tcp.h>.
TCP_INFO_BYTES = 120
TCP_INFO_SEGMENTS = 136


@dataclass
class Followed:
    """The totals of all readers after following the feed for a while."""

    seconds: float = 0.0
    published: int = 0
    requests: int = 0
    wire_bytes: int = 0
    segments: int = 0
    ages_ns: array[int] = field(default_factory=lambda: array("q"))
    server_cpu_s: float = 0.0

    def age_ms(self, percent: float) -> float:
        if not self.ages_ns:
            raise LoadError("no news arrived")
        return sorted(self.ages_ns)[min(len(self.ages_ns) - 1, int(len(self.ages_ns) * percent / 100))] / 1e6


def on_the_wire(clients: list[socket.socket]) -> tuple[int, int]:
    """Return how many bytes, headers included, and how many segments these connections took, both ways."""
    total = segments = 0
    for sock in clients:
        info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 256)
        total += sum(struct.unpack_from("=QQ", info, TCP_INFO_BYTES))
        segments += sum(struct.unpack_from("=II", info, TCP_INFO_SEGMENTS))
    return total + segments * HEADERS_A_SEGMENT, segments


def piece_of_news() -> bytes:
    return json.dumps({"at": perf_counter_ns(), "text": TEXT * 2}).encode()


class Timetable:
    """A schedule of callbacks. Each returns the time at which it is due next, or None for never again."""

    def __init__(self) -> None:
        self.entries: list[tuple[float, int, Callable[[float], float | None]]] = []
        self.count = 0

    def add(self, due: float, what: Callable[[float], float | None]) -> None:
        self.count += 1
        heapq.heappush(self.entries, (due, self.count, what))

    def run_due(self, now: float) -> float:
        """Do what is due, and return the seconds until the next."""
        while self.entries and self.entries[0][0] <= now:
            due, _, what = heapq.heappop(self.entries)
            again = what(due)
            if again is not None:
                self.add(again, what)
        return self.entries[0][0] - now if self.entries else 0.05


def wait_and_receive(
    seconds: float, timetable: Timetable, poller: select.epoll, received: Callable[[int], None]
) -> float:
    begin = now = perf_counter()
    while now < begin + seconds:
        pause = timetable.run_due(now)
        for fd, _ in poller.poll(max(0.0, min(pause, begin + seconds - now))):
            received(fd)
        now = perf_counter()
    return now - begin


def followed_by_push(port: int, readers: int, per_second: float, seconds: float) -> Followed:
    """Follow the feed over WebSockets: the publisher sends a message, everyone has it."""
    result = Followed()
    clients = open_clients(port, readers)
    publisher = open_clients(port, 1)[0]
    rest = {sock.fileno(): bytearray() for sock in clients}
    by_fd = {sock.fileno(): sock for sock in clients}
    poller = select.epoll()
    for fd in by_fd:
        poller.register(fd, select.EPOLLIN)

    def publish(due: float) -> float:
        publisher.sendall(wire.client_frame(piece_of_news()))
        publisher.recv(65536)  # its own copy of a message, so that these do not pile up
        result.published += 1
        return due + 1 / per_second

    def received(fd: int) -> None:
        arrived = perf_counter_ns()
        data = rest[fd]
        chunk = by_fd[fd].recv(65536)
        if not chunk:
            raise LoadError("the server closed a reader")
        data += chunk
        while (bounds := wire.frame_end(data, 0, len(data))) is not None:
            result.ages_ns.append(arrived - json.loads(data[bounds[0] : bounds[1]])["at"])
            del data[: bounds[1]]

    timetable = Timetable()
    timetable.add(perf_counter(), publish)
    before = on_the_wire(clients)
    try:
        result.seconds = wait_and_receive(seconds, timetable, poller, received)
        after = on_the_wire(clients)
    finally:
        close_clients([*clients, publisher])
    result.wire_bytes, result.segments = after[0] - before[0], after[1] - before[1]
    return result


class Poller:
    """One reader that polls, on one kept-alive connection."""

    def __init__(self, port: int, every_s: float, result: Followed) -> None:
        self.port = port
        self.every_s = every_s
        self.result = result
        self.sock = connect(port)
        self.last = 0
        self.answer = b""
        self.asked = False

    def ask(self, due: float) -> float:
        # A reader whose last request is unanswered skips a beat, as any sane client does.
        if not self.asked:
            self.sock.sendall(
                f"GET /news?since={self.last} HTTP/1.1\r\nHost: 127.0.0.1:{self.port}\r\n"
                f"Accept: application/json\r\n\r\n".encode()
            )
            self.asked = True
            self.result.requests += 1
        return due + self.every_s

    def received(self) -> None:
        arrived = perf_counter_ns()
        chunk = self.sock.recv(65536)
        if not chunk:
            raise LoadError("the server closed a reader")
        self.answer += chunk
        head, end, body = self.answer.partition(wire.END_OF_HEADERS)
        if not end or len(body) < content_length(head):
            return
        latest = json.loads(body)
        self.result.ages_ns.extend(arrived - item["at"] for item in latest["news"])
        self.last = latest["last"]
        self.answer, self.asked = b"", False


def content_length(head: bytes) -> int:
    for line in head.split(b"\r\n"):
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            return int(value)
    raise LoadError(f"no Content-Length in {head!r}")


def followed_by_polling(port: int, readers: int, per_second: float, seconds: float, every_s: float = 1.0) -> Followed:
    """Follow the feed by polling at an interval; the readers are spread evenly over it."""
    result = Followed()
    publisher = connect(port)
    polling = [Poller(port, every_s, result) for _ in range(readers)]
    by_fd = {each.sock.fileno(): each for each in polling}
    poller = select.epoll()
    for fd in by_fd:
        poller.register(fd, select.EPOLLIN)

    def publish(due: float) -> float:
        body = piece_of_news()
        publisher.sendall(
            f"POST /news HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\n\r\n".encode()
            + body
        )
        if b" 204 " not in publisher.recv(65536):
            raise LoadError("the news was not accepted")
        result.published += 1
        return due + 1 / per_second

    timetable = Timetable()
    begin = perf_counter()
    timetable.add(begin, publish)
    for number, each in enumerate(polling):
        timetable.add(begin + every_s * (number + 0.5) / readers, each.ask)
    sockets = [each.sock for each in polling]
    before = on_the_wire(sockets)
    try:
        result.seconds = wait_and_receive(seconds, timetable, poller, lambda fd: by_fd[fd].received())
        after = on_the_wire(sockets)
    finally:
        close_clients([*sockets, publisher])
    result.wire_bytes, result.segments = after[0] - before[0], after[1] - before[1]
    return result
