"""A second signal ends the program, whatever the application keeps running or does to the main thread."""

from __future__ import annotations

import fcntl
import os
import signal
import struct
import subprocess
import sys
import termios
from pathlib import Path

import pytest
import trio

from tests.forked import Forker
from tests.process.test_workers import workers_of
from tests.redis_server import redis_server
from tests.relay.test_faults import assert_no_traceback, wait_gone
from tests.serving.machine import PATIENCE_S
from tests.serving.programs import Program, StartProgram
from tests.serving.wire import get

pytestmark = pytest.mark.usefixtures("bounded")

LINUX = pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")

# The application has the program wait less than usual for what keeps it.
APP = """
import rawws.process.signals
rawws.process.signals.LATE_S = rawws.process.signals.FORCE_S = 0.1

async def app(scope, receive, send):
    assert scope["type"] == "http"
    block()
    await send({"type": "http.response.start", "status": 204})
    await send({"type": "http.response.body"})

def block(): pass
"""

# No signal frees a thread that waits for a mutex which it holds itself, and Python's handlers don't run meanwhile.
STUCK_IN_C = """
import ctypes
def stick():
    print("stuck", file=__import__("sys").stderr, flush=True)
    libc, mutex = ctypes.CDLL(None), ctypes.create_string_buffer(256)
    for _ in range(2):
        libc.pthread_mutex_lock(mutex)
"""

THREAD = "import threading, time; threading.Thread(target=time.sleep, args=(1e6,), name='uploads').start()"
POOL = "from concurrent.futures import *; import time; pool = ThreadPoolExecutor(1); pool.submit(time.sleep, 1e6)"
POOL_OF_A_DAEMON = """
import threading, time
from concurrent.futures import ThreadPoolExecutor
pool = ThreadPoolExecutor(1, "asyncio")
filler = threading.Thread(target=lambda: pool.submit(time.sleep, 1e6), daemon=True)
filler.start()
filler.join()
"""
AT_EXIT = "import atexit, time; atexit.register(time.sleep, 1e6)"
STUCK_AT_EXIT = STUCK_IN_C + "import atexit; atexit.register(stick)"
IN_THREAD = "the application still runs in a thread: "
AT_THE_END = "the application still runs at exit: "


def write_app(folder: Path, more: str) -> tuple[str, ...]:
    (folder / "app.py").write_text(APP + more)
    return ("--app", "app:app", "--no-page")


async def wait(program: Program, part: str) -> None:
    await trio.to_thread.run_sync(program.wait_for_line, part)


async def end(program: Program) -> int:
    status = await trio.to_thread.run_sync(program.wait)
    assert_no_traceback(program)
    return status


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP], ids=lambda number: number.name)
@pytest.mark.parametrize(
    ("more", "message"),
    [
        (THREAD, IN_THREAD + "'uploads'"),
        (POOL, IN_THREAD + "'ThreadPoolExecutor-0_0'"),
        (POOL_OF_A_DAEMON, IN_THREAD + "'asyncio_0'"),
        (AT_EXIT, AT_THE_END),
        (STUCK_AT_EXIT, AT_THE_END),
    ],
    ids=["thread", "pool", "pool of a daemon", "atexit", "atexit in C"],
)
async def test_threads_of_the_application_are_named_and_ended_by_a_second_signal(
    start_program: StartProgram, tmp_path: Path, more: str, message: str, number: signal.Signals
) -> None:
    if number is signal.SIGHUP and signal.getsignal(number) == signal.SIG_IGN:
        pytest.skip("SIGHUP is ignored here")
    program = start_program(*write_app(tmp_path, more), directory=tmp_path)
    program.signal(number)
    await wait(program, "#0 = stopped")
    await wait(program, message)
    assert program.lines[-1].endswith("; it is waited for until another signal")
    program.signal(number)
    assert await end(program) == 1
    assert message in program.lines[-1]
    assert program.lines[-1].endswith(": ending without it")


async def test_the_program_waits_for_the_end_of_a_thread(start_program: StartProgram, tmp_path: Path) -> None:
    done = tmp_path / "done"
    more = f"""
import pathlib, threading, time
def work():
    while not pathlib.Path({str(done)!r} + ".asked").exists(): time.sleep(0.01)
    pathlib.Path({str(done)!r}).touch()
threading.Thread(target=work).start()
"""
    program = start_program(*write_app(tmp_path, more), directory=tmp_path)
    program.signal(signal.SIGTERM)
    await wait(program, IN_THREAD)
    Path(f"{done}.asked").touch()
    assert await end(program) == 0
    assert done.exists()


async def test_two_signals_end_a_program_whose_main_thread_is_in_c(start_program: StartProgram, tmp_path: Path) -> None:
    program = start_program(*write_app(tmp_path, STUCK_IN_C + "block = stick"), directory=tmp_path)
    await (await program.connect()).send(get("/"))
    await wait(program, "stuck")
    program.signal(signal.SIGTERM)
    program.signal(signal.SIGINT)
    assert await end(program) == 1
    assert "blocks the loop: ending without it" in program.lines[-1]


async def test_a_finalizer_that_never_returns_is_ended_in_time(start_program: StartProgram, tmp_path: Path) -> None:
    # Some finalizers run when all modules are torn down; nothing in Python can handle a signal then.
    more = """
import rawws.process.signals, time
rawws.process.signals.FINALIZING_S = 0.5
class Last:
    def __del__(self, sleep=time.sleep): sleep(1e6)
import builtins; builtins.last = Last()
"""
    program = start_program(*write_app(tmp_path, more), directory=tmp_path)
    program.signal(signal.SIGTERM)
    assert await trio.to_thread.run_sync(program.wait) == 1
    assert any("in __del__" in line for line in program.lines)


async def test_the_program_ends_by_force_even_if_nothing_can_be_logged(
    start_program: StartProgram, tmp_path: Path
) -> None:
    # A thread holds the lock of the log forever.
    more = """
import logging, threading, time
def hold():
    for handler in logging.getLogger("rawws").handlers: handler.acquire()
    print("held", file=__import__("sys").stderr, flush=True)
    time.sleep(1e6)
def block(): threading.Thread(target=hold).start()
"""
    program = start_program(*write_app(tmp_path, more), directory=tmp_path)
    await (await program.connect()).send(get("/"))
    await wait(program, "held")
    program.signal(signal.SIGTERM)
    program.signal(signal.SIGINT)
    assert await end(program) == 1


async def test_signals_that_an_application_sends_to_its_children_are_not_ours(
    start_program: StartProgram, tmp_path: Path
) -> None:
    more = """
import os, signal, time
def block():
    child = os.fork()
    if not child:
        time.sleep(0.1)
        time.sleep(0.1)
        os._exit(0)
    for _ in range(2):
        os.kill(child, signal.SIGTERM)
        time.sleep(0.05)
    os.waitpid(child, 0)
"""
    program = start_program(*write_app(tmp_path, more), directory=tmp_path)
    for _ in range(3):  # each child gets two signals; two of ours would end the program a moment later
        assert (await (await program.connect()).ask(get("/"))).status == 204
    program.signal(signal.SIGTERM)
    assert await end(program) == 0


async def test_the_program_can_be_ended_even_if_it_never_listened(start_program: StartProgram, tmp_path: Path) -> None:
    listening = start_program("--no-page")
    flags = [*write_app(tmp_path, THREAD), "--port", str(listening.port)]
    program = start_program.fork(*flags, directory=tmp_path)
    await wait(program, IN_THREAD)
    program.signal(signal.SIGTERM)
    assert await end(program) == 1
    assert any("Address already in use" in line for line in program.lines)


@pytest.mark.thorough
@LINUX
async def test_workers_end_although_their_application_left_a_thread(
    start_program: StartProgram, tmp_path: Path
) -> None:
    async with redis_server(tmp_path) as redis:
        flags = write_app(tmp_path, THREAD)
        program = start_program(*flags, "--workers", "2", "--backplane", redis.url, directory=tmp_path)
        program.wait_for_line("2 workers listen on")
        workers = workers_of(program)
        program.signal(signal.SIGTERM)
        for _ in workers:
            await wait(program, IN_THREAD)
        program.signal(signal.SIGTERM)
        assert await end(program) == 1
        assert not any("killing it" in line for line in program.lines)
        await wait_gone(workers)


@LINUX
async def test_an_orphaned_worker_ends_itself(start_program: StartProgram, tmp_path: Path) -> None:
    more = THREAD + "\nimport rawws.process.program; rawws.process.program.ORPHAN_S = 0.5"
    async with redis_server(tmp_path) as redis:
        flags = write_app(tmp_path, more)
        more_flags = ("--workers", "2", "--backplane", redis.url, "--drain", "0.1")
        program = start_program(*flags, *more_flags, directory=tmp_path)
        program.wait_for_line("2 workers listen on")
        workers = workers_of(program)
        os.kill(program.process.pid, signal.SIGKILL)
        await wait_gone(workers)


async def test_a_tap_ends_with_one_signal(start_program: StartProgram) -> None:
    target = start_program("--no-page")
    tap = start_program.tap(target.address)
    tap.signal(signal.SIGTERM)
    assert await end(tap) == 0


async def test_two_signals_end_a_client_whose_output_is_not_read(start_program: StartProgram, forker: Forker) -> None:
    server = start_program("--no-page", "--hello", "x" * 100_000)  # more than a pipe holds
    pipe = subprocess.PIPE
    arguments = ["connect", f"ws://{server.address}/"]
    constants = {"rawws.process.signals.FORCE_S": 0.1}
    with forker.start(arguments, stdin=pipe, stdout=pipe, stderr=pipe, constants=constants) as client:
        assert client.stdout is not None
        assert client.stderr is not None
        waiting = before = -1
        while waiting <= 0 or waiting != before:  # until the pipe is full
            await trio.sleep(0.05)
            before = waiting
            (waiting,) = struct.unpack("i", fcntl.ioctl(client.stdout, termios.FIONREAD, b"\0" * 4))
        client.send_signal(signal.SIGTERM)
        client.send_signal(signal.SIGINT)
        assert await trio.to_thread.run_sync(client.wait, PATIENCE_S) == 1
        err = client.stderr.read().decode()
    assert "standard output takes nothing, or the server doesn't close: ending without it" in err
