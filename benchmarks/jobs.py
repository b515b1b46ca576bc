"""The jobs a second that go through a group, from a store with `interval` to one worker with 100 at a time, and back.

    python -m benchmarks.jobs                 three rounds of 50,000 jobs, of which the median counts
    python -m benchmarks.jobs --jobs 5000     fewer

The worker acknowledges each job by a message of its own. It is a bare socket, so that it takes little time itself: 3 µs
a job. The CPU time of the server is what a busy machine changes least. With Redis and its client for Python installed,
a group of Redis Streams is measured in turns with it: its AOF synced each second, 100 entries in a read, and an XACK
for each, sent together. There, the client takes nearly all of the time.

Two nodes on one Redis are measured at the end: the worker is at the node that doesn't publish, and the CPU is that of
both nodes and of Redis.
"""

from __future__ import annotations

import argparse
import contextlib
import re
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks import procinfo
from benchmarks.servers import HOST, free_port
from rawws.wire.frames import Opcode, encode_message

IN_FLIGHT = 100
PAYLOAD = b"x" * 50
_HEAD = re.compile(rb'\{"id":"([^"]+)","try":1\}\n' + PAYLOAD)
_UPGRADE = (
    "GET {target} HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
    "Sec-WebSocket-Protocol: rawws.id.v1\r\n\r\n"
)


class Figure(NamedTuple):
    """The cost of some jobs."""

    jobs: int
    seconds: float
    cpu_seconds: float  # of the server

    def __str__(self) -> str:
        each = self.cpu_seconds / self.jobs * 1e6
        return f"{self.jobs / self.seconds:,.0f} jobs/s, {each:.0f} µs of the server's CPU a job"


def _masked(payload: bytes) -> bytes:
    """Return a text as a client sends it, with a mask of zeros: the server's work is the same."""
    frames: list[bytes | bytearray] = []
    encode_message(Opcode.TEXT, payload, frames)
    frame = bytearray(b"".join(frames))
    frame[1] |= 0x80
    return bytes(frame[:2]) + bytes(4) + bytes(frame[2:])  # all payloads here are short


def _connect(port: int, target: str) -> tuple[socket.socket, bytes]:
    connected = socket.create_connection((HOST, port))
    connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connected.sendall(_UPGRADE.format(target=target).encode())
    data = b""
    while b"\r\n\r\n" not in data:
        data += connected.recv(65536)
    assert data.startswith(b"HTTP/1.1 101"), data
    return connected, data.partition(b"\r\n\r\n")[2]


def _publish(port: int, jobs: int) -> None:
    """Publish all jobs, and wait until the last one has come back, so that they are stored."""
    connected, _ = _connect(port, "/jobs")
    with connected:
        for first in range(0, jobs, 500):
            count, seen = min(500, jobs - first), b""
            connected.sendall(_masked(PAYLOAD) * count)
            while seen.count(PAYLOAD) < count:
                seen += connected.recv(1 << 20)


def _work(port: int, jobs: int) -> None:
    connected, data = _connect(port, f"/jobs?group=g&max={IN_FLIGHT}")
    done = 0
    with connected:
        while done < jobs:
            end = 0
            answers = []
            for head in _HEAD.finditer(data):
                answers.append(_masked(b'{"ack":"%b"}' % head[1]))
                end = head.end()
            connected.sendall(b"".join(answers))
            done += len(answers)
            data = data[end:]
            if done < jobs:
                data += connected.recv(1 << 20)


def measure(jobs: int) -> Figure:
    """Return the figure of a server with a store."""
    port = free_port()
    with tempfile.TemporaryDirectory() as folder:
        store = ("--store", str(Path(folder) / "rooms.db"), "--store-sync", "interval", "--history", str(jobs))
        command = [sys.executable, "-m", "rawws", "serve", "--port", str(port), "--hello", "", *store]
        command += ["--history-bytes", "64M"]
        server = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        try:
            _wait_for(port)
            _publish(port, jobs)
            began, cpu = time.monotonic(), procinfo.cpu_seconds(server.pid)
            _work(port, jobs)
            return Figure(jobs, time.monotonic() - began, procinfo.cpu_seconds(server.pid) - cpu)
        finally:
            server.kill()
            server.wait()


def measure_shared(jobs: int) -> Figure | None:
    """Return the figure of two nodes on one Redis: jobs come in at one, and the worker is at the other."""
    if shutil.which("redis-server") is None:
        return None
    ports, redis_port = [free_port(), free_port()], free_port()
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        command = ["redis-server", "--port", str(redis_port), "--appendonly", "yes", "--save", "", "--dir", folder]
        processes = [stack.enter_context(_running(command))]
        _wait_for(redis_port)
        for port in ports:
            command = [sys.executable, "-m", "rawws", "serve", "--port", str(port), "--hello", ""]
            command += ["--backplane", f"redis://{HOST}:{redis_port}", "--history", str(jobs)]
            processes.append(stack.enter_context(_running(command)))
        for port in ports:
            _wait_for(port)
        urllib.request.urlopen(f"http://{HOST}:{ports[0]}/jobs?group=g").close()  # the group begins before the jobs
        _publish(ports[0], jobs)
        began, cpu = time.monotonic(), sum(procinfo.cpu_seconds(each.pid) for each in processes)
        _work(ports[1], jobs)
        used = sum(procinfo.cpu_seconds(each.pid) for each in processes) - cpu
        return Figure(jobs, time.monotonic() - began, used)


@contextlib.contextmanager
def _running(command: Sequence[str]) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def measure_redis(jobs: int) -> Figure | None:
    """Return the figure of Redis Streams by its own client; None if they aren't installed."""
    try:
        import redis
    except ImportError:
        return None
    if shutil.which("redis-server") is None:
        return None
    port = free_port()
    with tempfile.TemporaryDirectory() as folder:
        command = [
            "redis-server",
            "--port",
            str(port),
            "--appendonly",
            "yes",
            "--appendfsync",
            "everysec",
            "--save",
            "",
            "--dir",
            folder,
        ]
        server = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        try:
            _wait_for(port)
            client: Any = redis.Redis(port=port)
            adding = client.pipeline(transaction=False)
            for _ in range(jobs):
                adding.xadd("jobs", {"m": PAYLOAD})
            adding.execute()
            client.xgroup_create("jobs", "g", "0")
            began, cpu, done = time.monotonic(), procinfo.cpu_seconds(server.pid), 0
            while done < jobs:
                ((_, entries),) = client.xreadgroup("g", "worker", {"jobs": ">"}, count=IN_FLIGHT)
                answers = client.pipeline(transaction=False)
                for entry, _ in entries:
                    answers.xack("jobs", "g", entry)
                done += len(answers.execute())
            return Figure(jobs, time.monotonic() - began, procinfo.cpu_seconds(server.pid) - cpu)
        finally:
            server.kill()
            server.wait()


def _wait_for(port: int) -> None:
    end = time.monotonic() + 60
    while True:
        try:
            socket.create_connection((HOST, port), timeout=1).close()
        except OSError:
            if time.monotonic() > end:
                raise
            time.sleep(0.02)
        else:
            return


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.jobs", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--jobs", type=int, default=50_000)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args(argv)
    ours: list[Figure] = []
    theirs: list[Figure] = []
    for _ in range(options.rounds):
        ours.append(measure(options.jobs))
        if (figure := measure_redis(options.jobs)) is not None:
            theirs.append(figure)
    print(f"rawws: {_median(ours)}")
    if theirs:
        ratio = statistics.median(other.seconds / own.seconds for own, other in zip(ours, theirs, strict=True))
        print(f"Redis Streams: {_median(theirs)}")
        print(f"rawws ÷ Redis Streams: {ratio:.2f}, the median of the rounds")
    else:
        print("Redis Streams: not installed")
    print(f"rawws, two nodes on Redis: {measure_shared(options.jobs) or 'not installed'}")
    return 0


def _median(figures: Sequence[Figure]) -> Figure:
    return sorted(figures, key=lambda figure: figure.seconds)[len(figures) // 2]


if __name__ == "__main__":
    sys.exit(main())
