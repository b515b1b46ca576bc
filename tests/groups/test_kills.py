"""Workers in five languages and the server itself are killed, and every job is done.

``RAWWS_JOBS=10000 pytest -n 0 tests/groups/test_kills.py`` is the full run, which takes minutes.
"""

from __future__ import annotations

import http.client
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
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import trio

from benchmarks.servers import free_port
from tests.browser import FLAGS, need_chromium
from tests.redis_server import RedisServer, redis_server
from tests.server.test_real_clients import find_node_modules
from tests.serving.machine import LOOPBACK, PATIENCE_S, need
from tests.serving.programs import Program, StartProgram

WORKERS = Path(__file__).parent / "workers"
MAX = 4
PUBLISHERS = 4
JOBS = int(os.environ.get("RAWWS_JOBS", "1500"))

pytestmark = pytest.mark.usefixtures("bounded")


class Log:
    """The log of all workers. A browser appends to it by POST, from a page that it gets here."""

    def __init__(self, path: Path) -> None:
        path.touch()
        self.path = path

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                found = self.path.startswith("/?")  # and no icon
                self._answer(200 if found else 404, (WORKERS / "browser.html").read_bytes() if found else b"")

            def do_POST(self) -> None:
                log.note(self.rfile.read(int(self.headers["Content-Length"])).decode())
                self._answer(200, b"")

            def _answer(self, status: int, body: bytes) -> None:
                self.send_response(status)
                self.send_header("Content-Type", "text/html")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002
                pass

            def handle(self) -> None:
                with suppress(ConnectionError):  # the browser has been killed
                    super().handle()

        log = self
        self._server = ThreadingHTTPServer((LOOPBACK, 0), Handler)
        self._thread = Thread(target=self._server.serve_forever, args=(0.05,))
        self._thread.start()

    @property
    def origin(self) -> str:
        return f"http://{LOOPBACK}:{self._server.server_port}"

    def note(self, line: str) -> None:
        with self.path.open("a") as file:
            file.write(line + "\n")

    def lines(self) -> list[str]:
        return self.path.read_text().splitlines()

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


class Scene:
    """Servers, their workers, and the log that the workers write."""

    redis: RedisServer | None = None

    def __init__(
        self, start_program: StartProgram, folder: Path, *place: str, nodes: int = 1, ack_s: str | None = None
    ) -> None:
        """``place`` is where the jobs are. The leases of a node that is killed end after ``ack_s``."""
        self._turn = itertools.cycle([free_port() for _ in range(nodes)])
        self._nodes = nodes
        self.log = Log(folder / "work.log")
        self._folder = folder
        self._start_program = start_program
        self._arguments = (*place, "--allow-origin", self.log.origin)
        self._programs: dict[int, Program] = {}
        self._ack = {} if ack_s is None else {"ACK": ack_s}
        more = {"env": {**os.environ, **self._ack}}
        node = {"env": {**find_node_modules(), **self._ack}}
        need(shutil.which("curl"), "curl")
        commands: dict[str, tuple[list[str], dict[str, Any]]] = {
            "js": (["node", str(WORKERS / "worker.js")], node),
            "curl": (["bash", str(WORKERS / "worker.sh")], more),
            "websockets": ([sys.executable, str(WORKERS / "with_websockets.py")], more),
            "work": ([sys.executable, str(WORKERS / "with_work.py")], more),
            "browser": ([need_chromium(), "--headless", "--disable-breakpad", *FLAGS], {"stderr": subprocess.DEVNULL}),
        }
        self._commands = commands
        self._workers: dict[str, tuple[str, subprocess.Popen[bytes]]] = {}
        self._numbers = itertools.count(1)
        self.kills: Counter[str] = Counter()

    @property
    def port(self) -> int:
        """The port of a server, which is another one each time."""
        return next(self._turn)

    def start_servers(self) -> None:
        for _ in range(self._nodes):
            self._start_server(self.port)

    def _start_server(self, port: int) -> None:
        self._programs[port] = self._start_program("--port", str(port), *self._arguments)

    def kill_server(self) -> None:
        port = self.port
        self.kills["server"] += 1
        self._programs[port].kill()
        self._programs[port].end()
        self.log.note("server killed")  # connections that were opened before this have ended
        self._start_server(port)

    def start_worker(self, kind: str) -> None:
        command, more = self._commands[kind]
        name = f"{kind}{next(self._numbers)}"
        if kind == "browser":
            target = f"{self.log.origin}/?name={name}&port={self.port}&max={MAX}&ack={self._ack.get('ACK', '')}"
            arguments = [*command, f"--user-data-dir={self._folder / name}", target]
        else:
            arguments = [*command, name, str(self.port), str(MAX), str(self.log.path)]
        process = subprocess.Popen(arguments, start_new_session=True, **more)
        self._workers[kind] = (name, process)

    def start_workers(self) -> None:
        for kind in self._commands:
            self.start_worker(kind)

    def kill_worker(self, kind: str) -> None:
        name, process = self._workers[kind]
        self.log.note(f"{name} killed")
        self.kills["worker"] += 1
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        self.start_worker(kind)

    def end_workers(self) -> None:
        for _, process in self._workers.values():
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        self.log.close()

    @property
    def kinds(self) -> list[str]:
        return list(self._commands)

    def ask(self, target: str, body: bytes | None = None, **fields: str) -> Any:
        headers = {"Content-Type": "text/plain"} | {name.replace("_", "-"): value for name, value in fields.items()}
        request = urllib.request.Request(f"http://{LOOPBACK}:{self.port}{target}", body, headers)
        with urllib.request.urlopen(request, timeout=PATIENCE_S) as response:
            return json.load(response)

    def make_group(self) -> None:
        """Make the group, so that no message is trimmed from now on."""
        with urllib.request.urlopen(f"http://{LOOPBACK}:{self.port}/jobs?group=g", timeout=PATIENCE_S) as response:
            assert response.status == 204

    def publish(self, number: int) -> str:
        """Publish a job, over kills of the server, and return its id."""
        while True:
            try:
                job: str = self.ask("/jobs", b"job %d" % number, Idempotency_Key=str(number))["id"]
            except (OSError, http.client.HTTPException):
                time.sleep(0.02)
            else:
                return job

    def left(self) -> int:
        state = self.ask("/jobs?group=g&state")
        return int(state["waiting"]) + int(state["leased"])


@pytest.fixture
def scene(start_program: StartProgram, tmp_path: Path) -> Iterator[Scene]:
    scene = Scene(start_program, tmp_path, "--store", str(tmp_path / "rooms.db"), "--store-sync", "interval")
    try:
        yield scene
    finally:
        scene.end_workers()


@pytest.fixture
async def shared_scene(start_program: StartProgram, tmp_path: Path) -> AsyncIterator[Scene]:
    """Two nodes with one Redis."""
    async with redis_server(tmp_path, "--appendonly", "yes", "--appendfsync", "always") as redis:
        scene = Scene(start_program, tmp_path, "--backplane", redis.url, nodes=2, ack_s="10")
        scene.redis = redis
        try:
            yield scene
        finally:
            scene.end_workers()


@pytest.mark.parametrize(
    ("jobs", "worker_kills", "server_kills"),
    [
        pytest.param(60, 2, 1, marks=pytest.mark.thorough),
        pytest.param(JOBS, JOBS // 333, 2, marks=[pytest.mark.thorough, pytest.mark.patience(60 + JOBS / 20)]),
    ],
)
async def test_every_job_is_done_though_workers_and_the_server_are_killed(
    scene: Scene, jobs: int, worker_kills: int, server_kills: int
) -> None:
    await kill_and_compare(scene, jobs, ["worker"] * worker_kills + ["server"] * server_kills)


@pytest.mark.parametrize(
    ("jobs", "worker_kills", "server_kills"),
    [
        pytest.param(60, 2, 1, marks=[pytest.mark.thorough, pytest.mark.patience(120)]),
        pytest.param(JOBS, JOBS // 500, 2, marks=[pytest.mark.thorough, pytest.mark.patience(120 + JOBS / 20)]),
    ],
)
async def test_every_job_is_done_at_two_nodes_though_workers_nodes_and_redis_are_killed(
    shared_scene: Scene, jobs: int, worker_kills: int, server_kills: int
) -> None:
    events = ["worker"] * worker_kills + ["server"] * server_kills + ["redis"] * (jobs > 1000)
    await kill_and_compare(shared_scene, jobs, events)


async def kill_and_compare(scene: Scene, jobs: int, events: list[str]) -> None:
    """Have jobs done while something is killed, and compare what the workers say with what groups promise."""
    scene.start_servers()
    await trio.to_thread.run_sync(scene.make_group)
    await trio.to_thread.run_sync(scene.start_workers)
    await wait_until_all_are_there(scene)
    chance = random.Random(7)
    chance.shuffle(events)
    with ThreadPoolExecutor(PUBLISHERS) as publishers:
        publishing = [publishers.submit(scene.publish, number) for number in range(jobs)]
        for event in events:
            done = count_ends(scene.log)
            until = time.monotonic() + 1.0
            while count_ends(scene.log) < min(jobs, done + jobs // (len(events) + 1)) and time.monotonic() < until:
                await trio.sleep(0.05)
            if event == "redis":
                assert scene.redis is not None
                scene.redis.kill()
                await scene.redis.start()
                continue
            kill = scene.kill_server if event == "server" else lambda: scene.kill_worker(chance.choice(scene.kinds))
            await trio.to_thread.run_sync(kill)
        ids = set(await trio.to_thread.run_sync(lambda: [each.result() for each in publishing]))
    assert len(ids) == jobs
    while await trio.to_thread.run_sync(left, scene):
        await trio.sleep(0.1)
    lines = scene.log.lines()
    in_flight = MAX * len(scene.kinds)
    check(lines, ids, scene.kills["worker"] * MAX + scene.kills["server"] * in_flight)
    assert {line.split()[0].rstrip("0123456789") for line in lines if " end " in line} == set(scene.kinds)


async def wait_until_all_are_there(scene: Scene) -> None:
    """Wait until each worker is among the group's. One with curl is between two requests at times."""
    while True:
        state = await trio.to_thread.run_sync(scene.ask, "/jobs?group=g&state")
        if state["workers"] == len(scene.kinds):
            return
        await trio.sleep(0.05)


def count_ends(log: Log) -> int:
    return log.path.read_text().count(" end ")


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
    found, holders = [], defaultdict[str, set[str]](set)
    opened: dict[str, int] = {}  # the place of each worker's last connection
    killed: set[str] = set()
    server_killed = -1

    def has_lost(who: str) -> bool:
        """Return whether a worker is killed, or may still read what the killed server has sent."""
        return who in killed or opened[who] < server_killed

    for place, line in enumerate(lines):
        who, verb, *about = line.split()
        if line == "server killed":
            server_killed = place
        elif verb == "killed":
            killed.add(who)
        elif verb == "open":
            opened[who] = place
            for each in holders.values():
                each.discard(who)
        elif verb == "get":
            others = {other for other in holders[about[0]] - {who} if not has_lost(other)}
            found += [f"{about[0]}: {other} and {who}" for other in others if not has_lost(who)]
            holders[about[0]].add(who)
        else:
            holders[about[0]].discard(who)
    return found


@pytest.mark.parametrize(
    ("lines", "count"),
    [
        (("a open", "b open", "a get 1 1", "b get 1 2"), 1),
        (("a open", "b open", "a get 1 1", "a end 1 1", "b get 1 2"), 0),
        (("a open", "b open", "a get 1 1", "a killed", "b get 1 2"), 0),
        (("a open", "b open", "a get 1 1", "b get 1 2", "a killed"), 1),
        (("a open", "b open", "a get 1 1", "server killed", "b open", "b get 1 2"), 0),
        (("a open", "b open", "server killed", "b open", "b get 1 2", "a get 1 1"), 0),
        (("a open", "b open", "server killed", "a open", "b open", "b get 1 2", "a get 1 1"), 1),
        (("a open", "b open", "a get 1 1", "a open", "b get 1 2"), 0),
    ],
)
async def test_an_overlap_is_found(lines: tuple[str, ...], count: int) -> None:
    assert len(overlaps(list(lines))) == count


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
