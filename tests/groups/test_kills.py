"""Workers in several languages and the server itself are killed, and every job is done."""

from __future__ import annotations

import itertools
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import trio

from benchmarks.servers import free_port
from tests.redis_server import RedisServer, redis_server
from tests.server.test_real_clients import find_node_modules
from tests.serving.machine import LOOPBACK, PATIENCE_S, need
from tests.serving.programs import Program, StartProgram

WORKERS = Path(__file__).parent / "workers"
MAX = 4

pytestmark = pytest.mark.usefixtures("bounded")


class Scene:
    """Servers, their workers, and the log that the workers write."""

    def __init__(self, start_program: StartProgram, folder: Path, nodes: int, *place: str, ack_s: int = 20) -> None:
        """``place`` is where the jobs are. The leases of a node that is killed end after ``ack_s``."""
        self._ports = [free_port() for _ in range(nodes)]
        self._turn = itertools.cycle(self._ports)
        self.log = folder / "work.log"
        self.log.touch()
        self._start_program = start_program
        self._place = place
        self._programs: dict[int, Program] = {}
        more = {"env": {**os.environ, "ACK": str(ack_s)}}
        node = {"env": {**os.environ, **find_node_modules(), "ACK": str(ack_s)}}
        need(shutil.which("curl"), "curl")
        commands: dict[str, tuple[list[str], dict[str, Any]]] = {
            "js": (["node", str(WORKERS / "worker.js")], node),
            "curl": (["bash", str(WORKERS / "worker.sh")], more),
            "websockets": ([sys.executable, str(WORKERS / "with_websockets.py")], more),
            "work": ([sys.executable, str(WORKERS / "with_work.py")], more),
            "work2": ([sys.executable, str(WORKERS / "with_work.py")], more),
        }
        self._commands = commands
        self._workers: dict[str, tuple[str, subprocess.Popen[bytes]]] = {}
        self._numbers = itertools.count(1)
        self.kills: Counter[str] = Counter()
        self.redis: RedisServer | None = None

    def note(self, line: str) -> None:
        with self.log.open("a") as file:
            file.write(line + "\n")

    @property
    def port(self) -> int:
        """The port of a node, which is another one each time."""
        return next(self._turn)

    def start_servers(self) -> None:
        for port in self._ports:
            self._programs[port] = self._start_program("--port", str(port), *self._place)

    def kill_server(self) -> None:
        port = self.port
        self.note("server killed")
        self.kills["server"] += 1
        self._programs[port].kill()
        self._programs[port].end()
        self._programs[port] = self._start_program("--port", str(port), *self._place)
        self.note("server killed")  # a worker may have read jobs of the dead server until now

    def start_worker(self, kind: str) -> None:
        command, more = self._commands[kind]
        name = f"{kind}{next(self._numbers)}"
        arguments = [*command, name, str(self.port), str(MAX), str(self.log)]
        process = subprocess.Popen(arguments, start_new_session=True, **more)
        self._workers[kind] = (name, process)

    def start_workers(self) -> None:
        for kind in self._commands:
            self.start_worker(kind)

    def kill_worker(self, kind: str) -> None:
        name, process = self._workers[kind]
        self.note(f"{name} killed")
        self.kills["worker"] += 1
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        self.start_worker(kind)

    def end_workers(self) -> None:
        for _, process in self._workers.values():
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    @property
    def kinds(self) -> list[str]:
        return list(self._commands)

    def ask(self, target: str, body: bytes | None = None) -> Any:
        headers = {"Content-Type": "text/plain"}
        request = urllib.request.Request(f"http://{LOOPBACK}:{self.port}{target}", body, headers)
        with urllib.request.urlopen(request, timeout=PATIENCE_S) as response:
            return json.load(response)

    def make_group(self) -> None:
        """Make the group, so that no message is trimmed from now on."""
        with urllib.request.urlopen(f"http://{LOOPBACK}:{self.port}/jobs?group=g", timeout=PATIENCE_S) as response:
            assert response.status == 204

    def publish(self, count: int) -> set[str]:
        return {self.ask("/jobs", b"job %d" % number)["id"] for number in range(count)}

    def left(self) -> int:
        state = self.ask("/jobs?group=g&state")
        return int(state["waiting"]) + int(state["leased"])


@pytest.fixture
def scene(start_program: StartProgram, tmp_path: Path) -> Iterator[Scene]:
    scene = Scene(start_program, tmp_path, 1, "--store", str(tmp_path / "rooms.db"), "--store-sync", "interval")
    try:
        yield scene
    finally:
        scene.end_workers()


@pytest.fixture
async def shared_scene(bounded: None, start_program: StartProgram, tmp_path: Path) -> AsyncIterator[Scene]:  # noqa: ARG001
    """Two nodes with one Redis."""
    durable = ("--appendonly", "yes", "--appendfsync", "always")
    async with redis_server(tmp_path, *durable) as redis:
        scene = Scene(start_program, tmp_path, 2, "--backplane", redis.url, ack_s=10)
        scene.redis = redis
        try:
            yield scene
        finally:
            scene.end_workers()


@pytest.mark.parametrize(
    ("jobs", "worker_kills", "server_kills"),
    [
        pytest.param(60, 2, 1, marks=pytest.mark.thorough),
        pytest.param(10_000, 30, 2, marks=[pytest.mark.thorough, pytest.mark.patience(400)]),
    ],
)
async def test_every_job_is_done_though_workers_and_the_server_are_killed(
    scene: Scene, jobs: int, worker_kills: int, server_kills: int
) -> None:
    await kill_and_compare(scene, jobs, ["worker"] * worker_kills + ["server"] * server_kills)


@pytest.mark.parametrize(
    ("jobs", "worker_kills", "server_kills"),
    [
        pytest.param(100, 2, 1, marks=[pytest.mark.thorough, pytest.mark.patience(120)]),
        pytest.param(10_000, 20, 2, marks=[pytest.mark.thorough, pytest.mark.patience(400)]),
    ],
)
async def test_every_job_is_done_at_two_nodes_though_workers_nodes_and_redis_are_killed(
    shared_scene: Scene, jobs: int, worker_kills: int, server_kills: int
) -> None:
    await kill_and_compare(
        shared_scene, jobs, ["worker"] * worker_kills + ["server"] * server_kills + ["redis"] * (jobs > 1000)
    )


async def kill_and_compare(scene: Scene, jobs: int, events: list[str]) -> None:
    """Have jobs done while something is killed, and compare what the workers say with what groups promise."""
    scene.start_servers()
    await trio.to_thread.run_sync(scene.make_group)
    ids = await trio.to_thread.run_sync(scene.publish, jobs)
    await trio.to_thread.run_sync(scene.start_workers)
    chance = random.Random(7)
    chance.shuffle(events)
    for event in events:
        done = count_ends(scene.log)
        until = time.monotonic() + 1.0
        while count_ends(scene.log) < min(jobs, done + jobs // (len(events) + 1)) and time.monotonic() < until:
            await trio.sleep(0.02)
        if event == "redis":
            assert scene.redis is not None
            scene.redis.kill()
            await scene.redis.start()
            continue
        kill = scene.kill_server if event == "server" else lambda: scene.kill_worker(chance.choice(scene.kinds))
        await trio.to_thread.run_sync(kill)
    while await trio.to_thread.run_sync(left, scene):
        await trio.sleep(0.1)
    lines = scene.log.read_text().splitlines()
    in_flight = MAX * len(scene.kinds)
    check(lines, ids, scene.kills["worker"] * MAX + scene.kills["server"] * in_flight)


def count_ends(log: Path) -> int:
    return log.read_text().count(" end ")


def left(scene: Scene) -> int:
    """Return the number of jobs that are left; some are while the server is away."""
    try:
        return scene.left()
    except (urllib.error.URLError, OSError):
        return 1


def check(lines: list[str], ids: set[str], most_doubles: int) -> None:
    """Compare the log of all workers with what groups promise."""
    got: Counter[tuple[str, str]] = Counter()
    ended: Counter[str] = Counter()
    for line in lines:
        _, verb, *about = line.split()
        if verb == "get":
            got[about[0], about[1]] += 1
        elif verb == "end":
            ended[about[0]] += 1
    assert set(ended) == ids, "every job is done"
    assert max(got.values()) == 1, "each delivery is another try, so that no two workers have one lease"
    assert sum(ended.values()) - len(ids) <= most_doubles
    assert overlaps(lines) == []


def overlaps(lines: list[str]) -> list[str]:
    """Return the jobs that two workers had at a time, though neither they nor the server were killed meanwhile."""
    found, holders = [], defaultdict[str, dict[str, int]](dict)
    killed: dict[str, int] = {}
    # A worker that is killed may still get a job after the line about it, and never comes back.
    mortal = {line.split()[0] for line in lines if line.endswith(" killed")} - {"server"}
    for place, line in enumerate(lines):
        who, verb, *about = line.split()
        if verb == "killed":
            killed[who] = place
        elif verb == "get":
            for other, since in holders[about[0]].items():
                if other not in mortal and killed.get("server", -1) < since:
                    found.append(f"{about[0]}: {other} and {who}")
            holders[about[0]][who] = place
        else:
            holders[about[0]].pop(who, None)
    return found


async def test_a_poison_job_is_dead_after_exactly_five_tries(start_program: StartProgram, tmp_path: Path) -> None:
    program = start_program("--port", "0", "--store", str(tmp_path / "rooms.db"), "--store-sync", "interval")
    base = f"http://{LOOPBACK}:{program.port}/jobs"

    def ask(target: str, method: str = "GET", body: bytes | None = None) -> tuple[Any, bytes]:
        request = urllib.request.Request(base + target, body, {"Content-Type": "text/plain"}, method=method)
        with urllib.request.urlopen(request, timeout=PATIENCE_S) as response:
            return response.headers, response.read()

    def take_all() -> list[str]:
        ask("", "POST", b"poison")
        tries = []
        while (answer := ask("?group=g"))[1]:
            tries.append(answer[0]["Rawws-Try"])
            ask(f"?group=g&nak={answer[0]['Rawws-Id']}&lease={answer[0]['Rawws-Lease']}&why=broken", "POST")
        return tries

    assert await trio.to_thread.run_sync(take_all) == ["1", "2", "3", "4", "5"]
    _, dead = await trio.to_thread.run_sync(lambda: ask(".g.dead?last=10"))
    (message,) = json.loads(dead)["messages"]
    head, _, payload = message["text"].partition("\n")
    assert (json.loads(head)["tries"], json.loads(head)["reason"], payload) == (5, "broken", "poison")
