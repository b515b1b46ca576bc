"""Several processes on one port."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import trio

import rawws
from rawws.process.workers import VARIABLE, WorkerContext
from tests.redis_server import free_port, redis_server
from tests.serving.machine import LOOPBACK, PATIENCE_S
from tests.serving.programs import Program, StartProgram
from tests.serving.wire import get

REDIS = "redis://localhost:6379"


def workers_of(program: Program) -> list[int]:
    """Return the processes that a program has started, in any order."""
    of_each_thread = Path(f"/proc/{program.process.pid}/task").glob("*/children")
    return [int(pid) for children in of_each_thread for pid in children.read_text("ascii").split()]


async def meet(port: int) -> None:
    """Let six clients, most likely of different workers, talk to each other."""
    with trio.fail_after(PATIENCE_S):
        clients = [await rawws.connect(f"ws://{LOOPBACK}:{port}/room/x").__aenter__() for _ in range(6)]
        await clients[0].send("hi")
        assert [await client.recv() for client in clients] == ["hi"] * 6
        for client in clients:
            await client.aclose()


@pytest.mark.thorough
@pytest.mark.usefixtures("bounded")
async def test_workers_are_nodes_of_one_backplane(start_program: StartProgram, tmp_path: Path) -> None:
    async with redis_server(tmp_path) as redis:
        program = start_program("--workers", "2", "--backplane", redis.url, "--hello", "")
        program.wait_for_line("2 workers listen on 127.0.0.1:")
        await meet(program.port)

        first, second = workers_of(program)
        os.kill(first, signal.SIGKILL)
        program.wait_for_line("ended (SIGKILL); another one comes in 0.4 s")
        program.wait_for_line("listening on")
        assert len(workers_of(program)) == 2
        assert second in workers_of(program)
        await meet(program.port)

        program.signal(signal.SIGTERM)
        program.wait_for_line("SIGTERM: the workers are to drain")
        assert program.wait() == 0


@pytest.mark.skipif(not hasattr(signal, "SIGRTMIN"), reason="this system has no real-time signals")
@pytest.mark.usefixtures("bounded")
async def test_a_worker_that_an_unnamed_signal_ends_is_replaced(start_program: StartProgram, tmp_path: Path) -> None:
    async with redis_server(tmp_path) as redis:
        program = start_program("--workers", "1", "--backplane", redis.url)
        program.wait_for_line("1 workers listen on")
        (worker,) = workers_of(program)
        nameless = signal.SIGRTMIN + 1
        os.kill(worker, nameless)
        program.wait_for_line(f"worker 1 ended (signal {nameless}); another one comes in 0.4 s")
        program.wait_for_line("listening on")


@pytest.mark.usefixtures("bounded")
async def test_a_client_that_waits_at_a_dead_worker_is_served_by_the_next(
    start_program: StartProgram, tmp_path: Path
) -> None:
    async with redis_server(tmp_path) as redis:
        program = start_program("--workers", "1", "--backplane", redis.url)
        program.wait_for_line("1 workers listen on")
        (worker,) = workers_of(program)
        os.kill(worker, signal.SIGSTOP)
        client = await program.connect()
        await client.send(get("/"))
        os.kill(worker, signal.SIGKILL)
        with trio.fail_after(PATIENCE_S):
            assert (await client.answer()).body == b"hi there"
        client.hang_up()


@pytest.mark.usefixtures("bounded")
async def test_workers_end_when_the_first_process_is_gone(start_program: StartProgram, tmp_path: Path) -> None:
    async with redis_server(tmp_path) as redis:
        program = start_program("--workers", "2", "--backplane", redis.url)
        program.wait_for_line("2 workers listen on")
        program.signal(signal.SIGKILL)
        program.wait_for_line("the first process is gone: accepting no more")
        program.wait_for_line("stopped")
        program.wait_for_line("stopped")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--workers", "2", "--store", "x.db"], "--store is for one process, and not yet for the rooms of --workers"),
        (["--backplane", "local:"], "--backplane local: shares rooms among --workers; give these too, or leave it out"),
        (["--workers", "2", "--backplane", "local:", "--backplane", REDIS], "shares rooms on this machine alone"),
        (["--workers", "2", "--page"], "--page shows one process"),
        (
            ["--store", "x.db", "--backplane", "redis://localhost"],
            "--store keeps rooms on this machine, and --backplane",
        ),
        (["--store", "x.db", "--mode", "echo"], "--store has no effect with --mode echo, which has no rooms"),
        (["--store-sync", "never"], "--store-sync has no effect without --store; give that too, or leave it out"),
        (["--store", "x.db", "--store-interval", "1"], "--store-interval is for --store-sync interval"),
        (["--store", "missing/x.db"], "there is no directory"),
        (["--workers", "0", "--backplane", REDIS], "give 1 to 1024"),
        (["--workers", "1000000", "--backplane", REDIS], "give 1 to 1024"),
        (["--workers", "2", "--backplane", REDIS, "--record", "r.jsonl"], "--record writes one file"),
        (["--workers", "2", "--backplane", REDIS, "--page"], "--page shows one process"),
        (["--workers", "2", "--backplane", REDIS, "--tls-cert", "/nowhere.pem"], "'/nowhere.pem'"),
        (["--workers", "2", "--backplane", "http://localhost"], "http:// is not a scheme for Redis"),
        (["--workers", "2", "--backplane", REDIS, "--app", "nowhere:app"], "there is no module 'nowhere'"),
    ],
)
def test_an_invalid_command_line_is_reported_once(
    start_program: StartProgram, arguments: list[str], message: str
) -> None:
    ended = start_program.run("--port", str(free_port()), *arguments)
    assert (ended.returncode, ended.stdout) == (2, "")
    (line,) = ended.stderr.splitlines()
    assert message in line


@pytest.mark.parametrize("value", ["1", "no", "[1, [900], 901]", '[1, ["3"], 4]'])
def test_an_invalid_worker_variable_is_refused(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv(VARIABLE, value)
    with pytest.raises(
        rawws.UsageError,
        match=r"RAWWS_WORKER is .*, which is not a value that --workers sets for its processes; unset it",
    ):
        WorkerContext.of_this_process()
    assert VARIABLE not in os.environ


@pytest.mark.usefixtures("bounded")
async def test_workers_run_the_same_code_as_the_first_process(start_program: StartProgram, tmp_path: Path) -> None:
    (tmp_path / "trio.py").write_text("raise SystemExit('this is another trio')")
    trap = subprocess.run([sys.executable, "-c", "import trio"], cwd=tmp_path, capture_output=True, check=False)
    assert b"this is another trio" in trap.stderr
    start_program.command = [sys.executable, "-P", "-m", "rawws"]  # it looks for modules where `rawws` does
    async with redis_server(tmp_path) as redis:
        flags = ("--workers", "1", "--backplane", redis.url, "--metrics")
        program = start_program(*flags, directory=tmp_path)
        metrics = (await (await program.connect()).ask(get("/metrics"))).body.decode()
    assert 'worker="1"' in metrics


@pytest.mark.usefixtures("bounded")
async def test_limits_of_the_whole_program_are_divided_among_the_workers(
    start_program: StartProgram, tmp_path: Path
) -> None:
    flags = ("--metrics", "--max-connections", "5", "--max-memory", "3G", "--max-rooms", "5")
    async with redis_server(tmp_path) as redis:
        program = start_program("--workers", "2", "--backplane", redis.url, *flags)
        metrics = (await (await program.connect()).ask(get("/metrics"))).body.decode()
    limits = re.findall(
        r'^rawws_limit{flag="(--max-(?:connections|memory|rooms))",worker="[12]"} (\S+)$', metrics, re.MULTILINE
    )
    assert {flag: float(limit) for flag, limit in limits} == {
        "--max-connections": 3,
        "--max-memory": 1.5 * 2**30,
        "--max-rooms": 5,
    }
    assert re.search(r'^rawws_peers{kind="websocket",worker="[12]"} 0.0$', metrics, re.MULTILINE)
