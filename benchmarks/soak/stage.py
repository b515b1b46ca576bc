"""The processes of the soak: a Redis that can be killed, the nodes that share it, and their resources."""

from __future__ import annotations

import contextlib
import math
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import trio

from benchmarks import procinfo, servers
from benchmarks.servers import HOST, Unavailable
from benchmarks.soak.clients import Cut, Line, Refused
from rawws.extras import install_command

NODES = 2
START_TIMEOUT_S = 15.0
# After Redis has returned, a node reconnects within 2 s, and clients that came meanwhile wait for at most 3 s.
SETTLES_S = 8.0

# Pings find a dead peer sooner than by default, and the history holds the half minute for which a client is away at
# most. A peer that lags by a MiB is closed, and resumes from that history.
FLAGS = (
    *("--hello", "", "--log-level", "info", "--metrics", "--history", "3000", "--history-bytes", "8M"),
    *("--max-lag", "1M", "--ping-interval", "4", "--ping-timeout", "8", "--close-timeout", "3"),
)
ADMIN_TOKEN = "of-an-operator-of-the-soak"


def missing() -> str:
    """Return a sentence about the missing requirements of the soak; empty if there are none."""
    if not hasattr(os, "sched_setaffinity"):
        return "The soak pins processes and reads /proc, so it needs Linux."
    if shutil.which("redis-server") is None:
        return "The soak needs redis-server, which is not installed."
    try:
        import coredis  # noqa: F401
        import prometheus_client  # noqa: F401
    except ImportError:
        return f"The soak needs two packages: {install_command('coredis', 'prometheus-client')}"
    return ""


class RedisServer:
    """A Redis on disk. A kill loses nothing that it has acknowledged."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.port = servers.free_port()
        self._process: subprocess.Popen[bytes] | None = None
        self._away_until = math.inf

    @property
    def was_away_lately(self) -> bool:
        """Return whether a node may rightly report that it can't reach Redis."""
        return trio.current_time() < self._away_until

    @property
    def url(self) -> str:
        return f"redis://{HOST}:{self.port}/0"

    def start(self) -> None:
        options = ("--save", "", "--appendonly", "yes", "--appendfsync", "always", "--dir", str(self._folder))
        with on_core(procinfo.cores()[0]):
            self._process = subprocess.Popen(
                ["redis-server", "--port", str(self.port), "--bind", HOST, *options],
                stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
            )  # fmt: skip

    def kill(self) -> None:
        """End it at once (SIGKILL), if it is running."""
        self._away_until = math.inf
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    async def wait_until_ready(self) -> None:
        """Wait until it has loaded its data from disk."""
        with trio.fail_after(START_TIMEOUT_S):
            while True:
                with contextlib.suppress(OSError, Cut), await Line.open(self.port) as line:
                    await line.send(b"PING\r\n")
                    if await line.up_to(b"\r\n") == b"+PONG":
                        self._away_until = trio.current_time() + SETTLES_S
                        return
                await trio.sleep(0.02)

    async def clients(self) -> int:
        """Return the number of its connections, without this one."""
        with await Line.open(self.port) as line:
            await line.send(b"INFO clients\r\n")
            while not (reply := await line.up_to(b"\r\n")).startswith(b"connected_clients:"):
                pass
            return int(reply.partition(b":")[2]) - 1


@dataclass(frozen=True)
class Holding:
    """A node's resources, and counts of its work."""

    memory_bytes: int
    descriptors: list[str]
    tasks: int
    values: dict[str, float]  # everything at /metrics


class Outages(NamedTuple):
    """The numbers of reported losses of Redis by a node, and of reported returns."""

    lost: int
    found: int


class Node:
    """A process ``python -m rawws``, and its log."""

    def __init__(self, name: str, folder: Path, redis: str) -> None:
        self.name = name
        self.port = servers.free_port()
        self._log = folder / f"{name}.log"
        token_file = folder / "admin-token"
        token_file.write_text(ADMIN_TOKEN)
        command = [sys.executable, "-m", "rawws", "--host", HOST, "--port", str(self.port), "--backplane", redis]
        command += ["--admin-token-file", str(token_file)]
        with self._log.open("wb") as output, on_core(procinfo.cores()[0]):
            self.process = subprocess.Popen(
                [*command, *FLAGS], stdin=subprocess.DEVNULL, stdout=output, stderr=output,
                env=servers.environment(), start_new_session=True,
            )  # fmt: skip

    async def wait_until_ready(self) -> None:
        with trio.fail_after(START_TIMEOUT_S):
            while self.process.poll() is None:
                with contextlib.suppress(OSError, Cut, Refused), await Line.open(self.port) as line:
                    await line.ask("GET /readyz HTTP/1.1")
                    return
                await trio.sleep(0.02)
        raise Unavailable(f"node {self.name} did not start: {self.log_tail()}")

    async def follow_another_room(self) -> None:
        """Make the node open its second connection to Redis, which it otherwise does at the first use."""
        while True:
            with contextlib.suppress(Refused), await Line.open(self.port) as line:
                await line.listen("/pause", "")
                return
            await trio.sleep(0.1)

    async def ask_other_nodes(self) -> None:
        """Make all nodes open the connections to Redis by which they ask and answer one another."""
        with await Line.open(self.port) as line:
            await line.ask(f"GET /_rawws/rooms?limit=1 HTTP/1.1\r\nAuthorization: Bearer {ADMIN_TOKEN}")

    async def holding(self) -> Holding:
        with await Line.open(self.port) as line:
            reply = await line.ask("GET /metrics HTTP/1.1")
            values = {name: float(value) for name, value in re.findall(r"^(rawws_.+) (\S+)$", reply, re.MULTILINE)}
            pid = self.process.pid
            return Holding(procinfo.resident_bytes(pid), procinfo.descriptors(pid), int(values["rawws_tasks"]), values)

    def log_tail(self) -> str:
        return self._log.read_text(errors="replace")[-6000:]

    def outages(self) -> Outages:
        log = self._log.read_text(errors="replace")
        return Outages(log.count("the backplane is away ("), log.count("the backplane is back"))

    def complaints(self) -> list[str]:
        """Return the lines of the log that neither clients nor Redis may ever cause."""
        lines = self._log.read_text(errors="replace").splitlines()
        return [line for line in lines if re.search(r"\b(ERROR|CRITICAL|Traceback|Error:)", line)]


class Stage:
    """All running processes of the soak."""

    def __init__(self, redis: RedisServer, nodes: list[Node]) -> None:
        self.redis = redis
        self.nodes = nodes

    async def wait_until_ready(self) -> None:
        await self.redis.wait_until_ready()
        for node in self.nodes:
            await node.wait_until_ready()


@contextmanager
def on_core(core: int) -> Iterator[None]:
    """Run on this core, and let processes that start meanwhile stay on it."""
    own = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, own)


@contextmanager
def stage() -> Iterator[Stage]:
    """Start all processes on one core, leave the other to the load, and end all of them in any case."""
    with tempfile.TemporaryDirectory(prefix="rawws-soak-") as name, contextlib.ExitStack() as stack:
        folder = Path(name)
        stack.enter_context(on_core(procinfo.cores()[1]))
        redis = RedisServer(folder)
        stack.callback(redis.kill)
        redis.start()
        nodes = []
        for number in range(NODES):
            nodes.append(Node("AB"[number], folder, redis.url))
            stack.callback(servers.stop, nodes[-1].process)
        yield Stage(redis, nodes)
