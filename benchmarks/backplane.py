"""The cost of sharing rooms: between the workers of one machine, and between nodes by a Redis, compared with others.

    python -m benchmarks.backplane

Both nodes and Redis share one core, and the load has the other. A hundred peers are at each node, ten of the two
hundred publish, and all receive everything. Of the two workers without Redis, each has about a hundred:

* deliveries per second, for several windows of messages under way: the best of each server counts;
* the CPU time of all processes for one of these messages, Redis's and the first process's with them;
* the age of a message on arrival, at 1,000 messages per second to twenty peers, through Redis and (rawws) without;
* a node that follows 10,000 rooms, with 1,000 messages per second to 500 of them at random: its memory, and the age of
  messages on arrival. Here the node has a core for itself, and all else has the other.

npm `ws` has Redis pub/sub between its processes, socket.io its Redis Streams adapter.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import select
import socket
import subprocess
import sys
import tempfile
import time
from array import array
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from statistics import median
from time import perf_counter

from benchmarks import procinfo, servers, wire
from benchmarks.fanout import Fanout
from benchmarks.latency import STAMP_DIGITS, Trickle, stamped
from benchmarks.load import BUFFER_BYTES, TIMEOUT_S, LoadError, close_clients, connect, open_clients
from benchmarks.memory import allow_open_files
from benchmarks.servers import HOST, PACKAGE_ROOT, Running, Unavailable, Wish

PEERS = 100
PUBLISHERS = 10
WINDOWS = (4, 32, 256)
PAYLOAD_BYTES = 64
PER_SECOND = 1000
FEW = 10
ROOMS = 10_000
ENGINE_IO = "/socket.io/?EIO=4&transport=websocket"


@dataclass(frozen=True)
class System:
    """A server that can have several processes, and connects them."""

    name: str
    command: Callable[[int, str], list[str]]
    packages: tuple[str, ...] = ()
    envelope: tuple[bytes, bytes] = (b"", b"")
    is_socket_io: bool = False

    def missing(self) -> str | None:
        absent = [package for package in self.packages if not servers.package_version(package)]
        return f"npm install --no-save {' '.join(absent)}" if absent else None

    def open(self, port: int, count: int) -> list[socket.socket]:
        if not self.is_socket_io:
            return open_clients(port, count)
        return [enter_socket_io(port) for _ in range(count)]


def rawws(port: int, redis: str) -> list[str]:
    flags = ["--hello", "", "--log-level", "warning", "--ping-interval", "0", "--no-compression", "--no-page"]
    command = [sys.executable, "-m", "rawws", "--host", HOST, "--port", str(port), *flags]
    return [*command, "--backplane", redis] if redis else command


def workers(port: int, redis: str) -> list[str]:
    return [*rawws(port, redis), "--workers", "2"]


def script(name: str) -> Callable[[int, str], list[str]]:
    path = PACKAGE_ROOT / "benchmarks" / "peers" / name
    return lambda port, redis: ["node", str(path), "--port", str(port), "--redis", redis]


RAWWS = System("rawws", rawws)
ALONE = System("rawws, one node without Redis", rawws)
WORKERS = System("rawws, two workers without Redis", workers)
SYSTEMS = (
    RAWWS,
    System("npm ws with Redis pub/sub", script("ws_redis.mjs"), ("ws", "redis")),
    System(
        "socket.io with Redis Streams",
        script("socketio_redis.mjs"),
        ("socket.io", "@socket.io/redis-streams-adapter", "redis"),
        (b'42["message","', b'"]'),
        is_socket_io=True,
    ),
)


def enter_socket_io(port: int) -> socket.socket:
    """Open a WebSocket, and do the handshakes of Engine.IO and Socket.IO in it."""
    sock = connect(port)
    sock.sendall(wire.upgrade_request(port, wire.new_key(), path=ENGINE_IO))
    data = bytearray()
    while wire.END_OF_HEADERS not in data:
        data += sock.recv(4096)
    if not data.startswith(b"HTTP/1.1 101 "):
        raise LoadError(f"no 101: {bytes(data[:200])!r}")
    del data[: data.index(wire.END_OF_HEADERS) + 4]
    for expected, answer in ((b"0{", b"40"), (b"40{", b"")):
        while (bounds := wire.frame_end(data, 0, len(data))) is None:
            data += sock.recv(4096)
        packet = bytes(data[bounds[0] : bounds[1]])
        if not packet.startswith(expected):
            raise LoadError(f"expected {expected!r}, got {packet[:60]!r}")
        del data[: bounds[1]]
        if answer:
            sock.sendall(wire.client_frame(answer))
    return sock


@contextmanager
def redis_server(core: int) -> Iterator[str]:
    """Run a Redis without persistence."""
    port = servers.free_port()
    own = os.sched_getaffinity(0)
    with tempfile.TemporaryDirectory() as directory:
        os.sched_setaffinity(0, {core})
        try:
            process = subprocess.Popen(
                ["redis-server", "--port", str(port), "--bind", HOST, "--save", "", "--dir", directory],
                stdout=subprocess.DEVNULL,
            )
        except FileNotFoundError:
            raise Unavailable("redis-server is not installed") from None
        finally:
            os.sched_setaffinity(0, own)
        try:
            deadline = time.monotonic() + TIMEOUT_S
            while True:
                with contextlib.suppress(OSError):
                    connect(port).close()
                    break
                if time.monotonic() > deadline:
                    raise Unavailable("redis-server does not come")
                time.sleep(0.02)
            yield f"redis://{HOST}:{port}"
        finally:
            process.terminate()
            process.wait(5)


@contextmanager
def nodes(system: System, redis: str, cores: list[int]) -> Iterator[list[Running]]:
    """Run a node on each of these cores; the cores may be the same."""
    with contextlib.ExitStack() as stack:
        started = []
        for core in cores:
            port = servers.free_port()
            command = system.command(port, redis)
            wish = Wish(broadcast=True)
            handshake = not system.is_socket_io
            running = servers.running(system.name, command, port, wish, handshake=handshake, core=core)
            started.append(stack.enter_context(running))
        yield started


Start = Callable[[], AbstractContextManager[list[Running]]]


@contextmanager
def starter(system: System, count: int, redis: str, *, once: bool) -> Iterator[Start]:
    """Yield what runs so many nodes on the servers' core: new ones each time, or the same."""
    start = partial(nodes, system, redis, [procinfo.cores()[0]] * count)
    if not once:
        yield start
        return
    with start() as running:
        yield lambda: contextlib.nullcontext(running)


@contextmanager
def peers(system: System, running: list[Running], each: int) -> Iterator[list[socket.socket]]:
    """Open so many at each node, and return them in turns."""
    groups = [system.open(node.port, each) for node in running]
    mixed = [sock for group in zip(*groups, strict=True) for sock in group]
    try:
        time.sleep(0.5)  # until every process has subscribed
        yield mixed
    finally:
        close_clients(mixed)


def throughput(
    system: System, start: Start, seconds: float, windows: Sequence[int], redis: str = ""
) -> tuple[float, float]:
    """Return deliveries a second with the window that suits the server best, and the µs of CPU for a message then."""
    best = 0.0, 0.0
    for window in windows:
        with start() as running, peers(system, running, PEERS * 2 // len(running)) as clients:
            load = Fanout(clients, PUBLISHERS, window, PAYLOAD_BYTES, envelope=system.envelope)
            load.run(seconds)
            pids = [node.pid for node in running] + ([process_of(redis)] if redis else [])
            before = sum(map(procinfo.cpu_seconds, pids))
            sample = load.run(seconds)
            used_s = sum(map(procinfo.cpu_seconds, pids)) - before
            published = sample.messages / len(clients)
            best = max(best, (sample.rate, used_s / published * 1e6))
    return best


def process_of(redis: str) -> int:
    """Return the process of a Redis."""
    with contextlib.closing(connect(int(redis.rpartition(":")[2]))) as sock:
        sock.sendall(b"INFO server\r\n")
        answer = sock.recv(16_384).decode()
    return int(answer.partition("process_id:")[2].split()[0])


def age(system: System, start: Start, seconds: float) -> tuple[float, float]:
    """Return the median and the 99th percentile of the age on arrival, in ms."""
    with start() as running, peers(system, running, FEW * 2 // len(running)) as clients:
        trickle = Trickle(clients, PER_SECOND, PAYLOAD_BYTES, system.envelope)
        trickle.run(seconds / 2)
        ages = trickle.run(seconds)
    return ages.percentile_ms(50), ages.percentile_ms(99)


def many_rooms(count: int, seconds: float) -> tuple[float, float, float, float]:
    """Return the seconds in which a node came to follow many rooms, KiB a room, and ages of messages in them, in ms."""
    own, rest = procinfo.cores()
    with redis_server(rest) as redis, nodes(RAWWS, redis, [rest, own]) as (near, far):
        before = procinfo.memory_bytes(far.pid)
        begin = perf_counter()
        readers: list[socket.socket] = []
        posting = connect(near.port)
        try:
            while len(readers) < count:
                fresh = [connect(far.port) for _ in range(32)]
                for sock in fresh:
                    path = f"/room/{len(readers)}"
                    readers.append(sock)
                    sock.sendall(wire.upgrade_request(far.port, wire.new_key(), path=path))
                for sock in fresh:
                    if not sock.recv(4096).startswith(b"HTTP/1.1 101 "):
                        raise LoadError("a room was refused")
            took_s = perf_counter() - begin
            memory = (procinfo.memory_bytes(far.pid) - before) / len(readers) / 1024
            ages = publish_anywhere(near, readers, seconds)
        finally:
            close_clients([*readers, posting])
    return took_s, memory, ages[len(ages) // 2] / 1e6, ages[int(len(ages) * 0.99)] / 1e6


def publish_anywhere(near: Running, readers: list[socket.socket], seconds: float) -> list[int]:
    """Publish at one node to rooms at random, and return the ages at which the messages came to the other."""
    chance = random.Random(1)
    rooms = chance.sample(range(len(readers)), min(500, len(readers)))
    writers = []
    for room in rooms:
        sock = connect(near.port)
        sock.sendall(wire.upgrade_request(near.port, wire.new_key(), path=f"/room/{room}"))
        if not (answer := sock.recv(4096)).startswith(b"HTTP/1.1 101 "):
            raise LoadError(f"a room was refused: {answer!r}")
        writers.append(sock)
    poller = select.epoll()
    by_fd = {sock.fileno(): sock for sock in readers}
    echoes = {sock.fileno(): sock for sock in writers}
    for sock in [*readers, *writers]:
        sock.setblocking(False)
        poller.register(sock.fileno(), select.EPOLLIN)
    ages = array("q")
    begin = due = now = perf_counter()
    try:
        while now < begin + seconds + 1:
            if due <= now and due < begin + seconds:
                chance.choice(writers).send(wire.client_frame(stamped(PAYLOAD_BYTES)))
                due += 1 / PER_SECOND
            for fd, _ in poller.poll(max(0.0, min(due - now, 0.05)) if due > now else 0.0):
                if fd in echoes:
                    echoes[fd].recv(BUFFER_BYTES)
                    continue
                data, at = by_fd[fd].recv(BUFFER_BYTES), time.perf_counter_ns()
                for start in range(len(data) % (PAYLOAD_BYTES + 2), len(data), PAYLOAD_BYTES + 2):
                    ages.append(at - int(data[start + 2 : start + 2 + STAMP_DIGITS]))
            now = perf_counter()
    finally:
        close_clients(writers)
    if not ages:
        raise LoadError("nothing arrived")
    return sorted(ages)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=2.0, help="measured for each figure (default 2)")
    parser.add_argument("--rounds", type=int, default=3, help="of which the median counts (default 3)")
    parser.add_argument("--only", metavar="WORD", default="", help="only servers with this in their name")
    parser.add_argument("--smoke", action="store_true", help="a moment and few rooms: does it work? No figure counts")
    options = parser.parse_args()
    if options.smoke:
        options.seconds, options.rounds = 0.1, 1
    rooms, windows = (64, WINDOWS[:1]) if options.smoke else (ROOMS, WINDOWS)
    allow_open_files()
    os.sched_setaffinity(0, {procinfo.cores()[1]})
    print(f"{'':<34}{'deliveries/s':>14}{'CPU, µs':>10}{'age p50, ms':>14}{'p99, ms':>10}")
    for system in (ALONE, WORKERS):
        with starter(system, 1, "", once=options.smoke) as start:
            print(row(system, start, options.seconds, options.rounds, windows), flush=True)
    with redis_server(procinfo.cores()[0]) as redis:
        for system in SYSTEMS:
            if options.only not in system.name:
                continue
            if missing := system.missing():
                print(f"{system.name:<34}  not here: {missing}")
                continue
            with starter(system, 2, redis, once=options.smoke) as start:
                print(row(system, start, options.seconds, options.rounds, windows, redis), flush=True)
    took_s, memory, p50, p99 = many_rooms(rooms, options.seconds)
    print(
        f"\n{rooms:,} rooms followed: in {took_s:.1f} s, {memory:.1f} KiB each with its peer; "
        f"{PER_SECOND:,} messages/s to some of them: p50 {p50:.2f} ms, p99 {p99:.2f} ms"
    )


def row(system: System, start: Start, seconds: float, rounds: int, windows: Sequence[int], redis: str = "") -> str:
    # The latency comes first, because the throughput leaves much under way.
    p50, p99 = take_pair(partial(age, system, start, seconds), rounds)
    rate, cpu_us = take_pair(partial(throughput, system, start, seconds, windows, redis), rounds)
    return f"{system.name:<34}{rate:>14,.0f}{cpu_us:>10.1f}{p50:>14.2f}{p99:>10.2f}"


def take_pair(measure: Callable[[], tuple[float, float]], rounds: int) -> tuple[float, float]:
    found = [measure() for _ in range(rounds)]
    return median(p50 for p50, _ in found), median(p99 for _, p99 in found)


if __name__ == "__main__":
    main()
