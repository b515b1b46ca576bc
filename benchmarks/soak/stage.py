"""The processes of the soak: a Redis that can be killed and the nodes that share it, or a node with a store.

Their resources are measured too.
"""

from __future__ import annotations

import contextlib
import importlib.util
import math
import os
import random
import re
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

import trio

from benchmarks import procinfo, servers
from benchmarks.servers import HOST, Unavailable
from benchmarks.soak.clients import Cut, Line, Refused
from rawws.extras import install_command

KILLED = "Redis killed and started again"
REDIS_EVERY_S = 100.0
REDIS_AWAY_S = (1.0, 5.0)
START_TIMEOUT_S = 60.0
# After Redis has returned, a node reconnects within 2 s, and clients that came meanwhile wait for at most 3 s.
SETTLES_S = 8.0

HISTORY_BYTES = 8 * 2**20
BUSY = 4.0  # programs for each core
# Pings find a dead peer sooner than by default, and the history holds the half minute for which a client is away at
# most. A peer that lags by a MiB is closed, and resumes from that history.
FLAGS = (
    *("--hello", "", "--log-level", "info", "--metrics", "--history", "3000", "--history-bytes", str(HISTORY_BYTES)),
    *("--max-lag", "1M", "--ping-interval", "4", "--ping-timeout", "8", "--close-timeout", "3"),
)
ADMIN_TOKEN = "of-an-operator-of-the-soak"


class Keeper(Protocol):
    """The place where the rooms of all nodes are kept."""

    nodes: str  # their names
    label: str  # of what `held` counts
    has_groups: bool

    @property
    def flags(self) -> tuple[str, ...]:
        """The flags of a node."""

    @property
    def was_away_lately(self) -> bool:
        """Whether a node may rightly report that it can't reach the rooms there."""

    def start(self) -> None:
        """Start it, if it is a process."""

    def kill(self) -> None:
        """End it at once (SIGKILL), if it is running."""

    async def wait_until_ready(self) -> None:
        """Wait until nodes can use it."""

    async def trouble(self, seconds: float, chance: random.Random, done: Counter[str]) -> None:
        """Make trouble within some seconds, and count it."""

    async def held(self) -> int:
        """Return the number of things that nodes hold there, and should not leave over."""


def missing(keeper: type[Keeper]) -> str:
    """Return a sentence about the missing requirements of the soak; empty if there are none."""
    if not hasattr(os, "sched_setaffinity"):
        return "The soak pins processes and reads /proc, so it needs Linux."
    needed = ["prometheus-client"]
    if keeper is RedisServer:
        if shutil.which("redis-server") is None:
            return "The soak needs redis-server, which is not installed."
        needed.append("coredis")
    lacks = [name for name in needed if importlib.util.find_spec(name.replace("-", "_")) is None]
    return f"The soak needs packages that are missing: {install_command(*lacks)}" if lacks else ""


class StoreFile:
    """A store of one node."""

    nodes = "A"
    label = "groups and jobs in the store"
    has_groups = True

    def __init__(self, folder: Path) -> None:
        self._path = folder / "rooms.db"

    @property
    def was_away_lately(self) -> bool:
        """Whether so many other programs want to run that 300 rooms may not be opened within the server's patience."""
        return os.getloadavg()[0] > BUSY * len(procinfo.cores())

    @property
    def flags(self) -> tuple[str, ...]:
        return ("--store", str(self._path), "--store-sync", "interval")

    def start(self) -> None:
        """Leave that to the node."""

    def kill(self) -> None:
        """Leave that to the other soak: here a node's memory is compared, so it has to live."""

    async def wait_until_ready(self) -> None:
        """Return at once."""

    async def trouble(self, seconds: float, chance: random.Random, done: Counter[str]) -> None:
        """Make none: the clients are trouble enough."""

    async def held(self) -> int:
        with closing(sqlite3.connect(self._path)) as database:
            (count,) = database.execute("SELECT (SELECT count(*) FROM groups) + (SELECT count(*) FROM jobs)").fetchone()
        return int(count)


class RedisServer:
    """A Redis on disk. A kill loses nothing that it has acknowledged."""

    nodes = "AB"
    label = "connections to Redis"
    has_groups = False

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
    def flags(self) -> tuple[str, ...]:
        return ("--backplane", f"redis://{HOST}:{self.port}/0")

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

    async def trouble(self, seconds: float, chance: random.Random, done: Counter[str]) -> None:
        """End it and start it again, at least once, with time before and after."""
        times = max(1, int(seconds / REDIS_EVERY_S))
        for _ in range(times):
            away_s = min(chance.uniform(*REDIS_AWAY_S), seconds / (times + 1) / 4)
            await trio.sleep(seconds / (times + 1) - away_s)
            self.kill()
            await trio.sleep(away_s)
            self.start()
            await self.wait_until_ready()
            done[KILLED] += 1

    async def held(self) -> int:
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

    def __init__(self, name: str, folder: Path, flags: Sequence[str]) -> None:
        self.name = name
        self.port = servers.free_port()
        self._log = folder / f"{name}.log"
        token_file = folder / "admin-token"
        token_file.write_text(ADMIN_TOKEN)
        command = [sys.executable, "-m", "rawws", "--host", HOST, "--port", str(self.port), *flags]
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

    async def end_groups(self) -> list[str]:
        """End all groups as an operator, and report what they have left to do."""
        head = "/_rawws/groups{} HTTP/1.1\r\nAuthorization: Bearer " + ADMIN_TOKEN
        left = []
        with await Line.open(self.port) as line:
            for each in (await line.ask("GET " + head.format("")))["groups"]:
                if each["waiting"] or each["leased"]:
                    left.append(f"a group had something left to do: {each}")
                await line.ask("DELETE " + head.format(f"?room={each['room']}&group={each['group']}"))
        return left

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

    def __init__(self, keeper: Keeper, nodes: list[Node]) -> None:
        self.keeper = keeper
        self.nodes = nodes

    async def wait_until_ready(self) -> None:
        await self.keeper.wait_until_ready()
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


KEEPERS: dict[str, type[RedisServer] | type[StoreFile]] = {"redis": RedisServer, "store": StoreFile}


@contextmanager
def stage(kind: type[RedisServer] | type[StoreFile]) -> Iterator[Stage]:
    """Start all processes on one core, leave the other to the load, and end all of them in any case."""
    with tempfile.TemporaryDirectory(prefix="rawws-soak-") as name, contextlib.ExitStack() as stack:
        folder = Path(name)
        stack.enter_context(on_core(procinfo.cores()[1]))
        keeper = kind(folder)
        stack.callback(keeper.kill)
        keeper.start()
        nodes = []
        for node in keeper.nodes:
            nodes.append(Node(node, folder, keeper.flags))
            stack.callback(servers.stop, nodes[-1].process)
        yield Stage(keeper, nodes)
