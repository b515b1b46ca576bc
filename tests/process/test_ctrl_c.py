"""Ctrl-C that Python handles: it raises KeyboardInterrupt wherever the main thread is."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import trio

import rawws
from rawws.hooks import call_application
from tests.examples.running import LISTENING
from tests.serving.machine import PATIENCE_S

# The script starts a server and interrupts it, each time in its own process, at every n-th line of trio that starts
# a task for rawws. A KeyboardInterrupt there leaves a task that never runs, and a nursery waits for it.
INTERRUPTED = """
import functools, os, signal, sys
import trio
import rawws

async def app(scope, receive, send):
    for kind in ("startup", "shutdown"):
        await receive()
        await send({"type": f"lifespan.{kind}.complete"})

async def main(seen):
    async with trio.open_nursery() as nursery:
        await nursery.start(functools.partial(rawws.serve, rawws.Hub(), 0, host="127.0.0.1", http=rawws.asgi(app)))
        await trio.testing.wait_all_tasks_blocked()
        sys.settrace(None)
        print("all", seen, flush=True)
        os._exit(0)

def is_interrupt(error):
    if isinstance(error, BaseExceptionGroup):
        return all(map(is_interrupt, error.exceptions))
    return isinstance(error, KeyboardInterrupt)

def interrupt_at(number):
    seen = 0

    def trace(frame, event, _):
        if frame.f_code.co_name != "spawn_impl":
            return None
        caller = frame.f_back.f_back
        return trace_line if "rawws" in caller.f_code.co_filename else None

    def trace_line(frame, event, _):
        nonlocal seen
        if event == "line":
            seen += 1
            if seen == number:
                sys.settrace(None)
                signal.raise_signal(signal.SIGINT)
        return trace_line

    sys.settrace(trace)
    try:
        trio.run(main, number)
    except BaseException as error:
        os._exit(not is_interrupt(error))

signal.signal(signal.SIGINT, signal.default_int_handler)
import trio.testing
number = 1
while True:
    number += int(sys.argv[1])
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        os.dup2(writing, 1)
        signal.alarm(100)  # kills a process that hangs
        interrupt_at(number)
    os.close(writing)
    _, status = os.waitpid(child, 0)
    said = os.read(reading, 100)
    os.close(reading)
    assert status == 0, f"interrupted at line {number}: {status}"
    if said:
        break
print("interrupted at", number, "lines")
"""


@pytest.mark.parametrize("step", [19, pytest.param(4, marks=pytest.mark.thorough)])
def test_ctrl_c_while_a_task_starts_is_not_lost(step: int) -> None:
    command = [sys.executable, "-c", INTERRUPTED, str(step)]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=2 * PATIENCE_S, check=False)
    assert ran.returncode == 0, ran.stderr
    lines = int(ran.stdout.split()[2])
    assert lines > 20, "or it has been interrupted nowhere"


def test_an_applications_own_code_may_be_interrupted() -> None:
    seen: list[bool] = []

    @trio.lowlevel.enable_ki_protection
    async def ours() -> None:
        seen.append(trio.lowlevel.currently_ki_protected())
        await call_application(theirs)

    async def theirs() -> None:
        seen.append(trio.lowlevel.currently_ki_protected())

    trio.run(ours)
    assert seen == [True, False]


async def test_handlers_hooks_and_applications_may_be_interrupted(nursery: trio.Nursery) -> None:
    protected: dict[str, bool] = {}

    def note(what: str) -> None:
        protected[what] = trio.lowlevel.currently_ki_protected()

    async def handler(ws: rawws.WebSocket) -> None:
        note("handler")
        await ws.aclose()

    def authenticate(_: rawws.Request) -> str:
        note("hook")
        return "somebody"

    async def http(_: rawws.Request) -> str:
        note("http")
        return "hi"

    serve = partial(rawws.serve, handler, 0, host="127.0.0.1", http=http, authenticate=authenticate)
    server: rawws.Server = await nursery.start(serve)
    async with rawws.connect(f"ws://127.0.0.1:{server.port}/") as ws:
        assert [message async for message in ws] == []
    async with await trio.open_tcp_stream("127.0.0.1", server.port) as stream:
        await stream.send_all(b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        assert b"".join([part async for part in stream]).endswith(b"hi")
    server.stop()
    assert protected == {"handler": False, "hook": False, "http": False}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
def test_an_example_handles_signals_itself(number: signal.Signals, tmp_path: Path) -> None:
    # A shell without job control starts background programs like this (POSIX, "Asynchronous Lists").
    command = [sys.executable, "-u", "-W", "error", "-m", "rawws.examples.echo", "--port", "0"]
    ignoring = (
        "import os, signal, sys; signal.signal(signal.SIGINT, signal.SIG_IGN); os.execv(sys.argv[1], sys.argv[1:])"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", ignoring, *command],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(Path(rawws.__file__).parents[1])},
    )
    try:
        assert process.stdout is not None
        assert LISTENING.match(process.stdout.readline())
        process.send_signal(number)
        _, err = process.communicate(timeout=PATIENCE_S)
    finally:
        process.kill()
        process.communicate()
    assert (process.returncode, "Traceback" in err) == (0, False), err
