"""Faults of the machine and of the application: the service goes on, the fault is logged, and recovery is complete."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import logging
import os
import re
import resource
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn

import pytest
import trio
import trio.testing

import rawws
import rawws.cli
from rawws.application.spec import Receive, Scope, Send
from rawws.backplane.connector import Connector
from rawws.backplane.troubles import Trouble
from rawws.inspection.records import from_line
from rawws.limits import Limits
from rawws.net.accept import EXHAUSTED_PAUSE_S
from rawws.process.workers import VARIABLE, _Supervisor
from rawws.relay.loop import current_loop
from rawws.tracing import Recording, Tracer
from rawws.wire.frames import Opcode
from tests.asgi_serving import answer, errors, only_http, serving
from tests.forked import Forked, Forker
from tests.process.test_workers import workers_of
from tests.redis_server import free_port, redis_server
from tests.serving.client import Client, HangsUp
from tests.serving.machine import LOOPBACK, PATIENCE_S
from tests.serving.programs import Program, StartProgram
from tests.serving.server import Running, Serve
from tests.serving.wire import Seen, close, get, masked, ping, seen_close, seen_text, upgrade

pytestmark = pytest.mark.usefixtures("bounded")

LINUX = pytest.mark.skipif(sys.platform != "linux", reason="needs /proc, and limits that are set from outside")


@pytest.fixture(scope="module")
def program(forker: Forker) -> Iterator[Program]:
    """One program for the tests that leave it as it was."""
    starter = StartProgram(forker)
    try:
        program = starter("--hello", "", "--drain", "0.2")
        yield program
        program.signal(signal.SIGTERM)
        assert program.wait() == 0
        assert_no_traceback(program)
    finally:
        for started in starter.started:
            started.end()


def assert_no_traceback(program: Program) -> None:
    """Check that a program that has ended has logged no error of its own."""
    assert [line for line in program.lines if "Traceback" in line or "error in rawws" in line] == []


Open = Callable[[rawws.Server], Awaitable[Client]]


@pytest.fixture
async def clients(bounded: None) -> AsyncIterator[list[HangsUp]]:  # noqa: ARG001
    """Yield a list whose clients are hung up at the end."""
    clients: list[HangsUp] = []
    yield clients
    for client in clients:
        client.hang_up()


@pytest.fixture
def open_at(clients: list[HangsUp]) -> Open:
    """Opens WebSockets at a server."""

    async def open_at(server: rawws.Server) -> Client:
        client = Client.unconnected()
        clients.append(client)
        return await (await client.connect(server.port)).open()

    return open_at


# The program waits for what keeps it a tenth as long as a real one does.
IMPATIENT = {
    "rawws.process.program.LATE_S": 0.1,
    "rawws.process.signals.FORCE_S": 0.1,
}


async def end(program: Program) -> int:
    """Return the program's status when it has ended."""
    status = await trio.to_thread.run_sync(program.wait)
    assert_no_traceback(program)
    return status


# Signals at odd moments

# An application is a way into the program: its module runs before the program listens.
APP = """
import atexit, os, signal, sys, time
import trio

def signal_ourselves(number):
    os.kill(os.getpid(), number)

async def app(scope, receive, send):
    assert scope["type"] == "http"
    if scope["path"] == "/thread":
        await trio.to_thread.run_sync(time.sleep, 1000)
    if scope["path"] == "/blocking":
        print("blocking", file=sys.stderr, flush=True)
        time.sleep(1000)
    while scope["path"] == "/stubborn":
        try:
            await trio.sleep_forever()
        except trio.Cancelled:
            pass
    await send({"type": "http.response.start", "status": 204})
    await send({"type": "http.response.body"})
"""


def write_app(folder: Path, more: str = "") -> tuple[str, ...]:
    (folder / "app.py").write_text(APP + more)
    return ("--app", "app:app", "--no-page", "--hello", "")


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, -signal.SIGTERM)])
async def test_a_signal_before_the_program_listens_ends_it_silently(
    start_program: StartProgram, tmp_path: Path, number: signal.Signals, status: int
) -> None:
    flags = write_app(tmp_path, f"signal_ourselves({number:d})")
    ended = start_program.run(*flags, directory=tmp_path)
    assert (ended.returncode, ended.stdout, ended.stderr) == (status, "", "")


async def test_many_signals_end_the_program_as_one_does_even_during_its_exit(
    start_program: StartProgram, tmp_path: Path
) -> None:
    at_exit = [f"atexit.register(signal_ourselves, {number:d})" for number in (signal.SIGINT, signal.SIGTERM)]
    program = start_program(*write_app(tmp_path, "\n".join(at_exit)), directory=tmp_path)
    peer = await (await program.connect()).open("/room/x")
    for number in (signal.SIGINT, signal.SIGTERM) * 10:
        program.signal(number)
    assert await end(program) == 0
    assert program.lines[-1].endswith("#0 = stopped")
    await peer.wait_lost()


@pytest.mark.skipif(signal.getsignal(signal.SIGHUP) == signal.SIG_IGN, reason="SIGHUP is ignored here")
async def test_the_loss_of_its_terminal_ends_the_program_in_order(
    start_program: StartProgram,
) -> None:
    program = start_program("--hello", "")
    peer = await (await program.connect()).open()
    halfway = await program.connect()
    await halfway.send(b"GET / HTTP/1.1\r\nUpgrade: webs")
    assert (await (await program.connect()).ask(get())).status == 200  # the half request has been read by now
    program.signal(signal.SIGHUP)
    assert await peer.frame() == seen_close(1001, "the server is shutting down")
    await peer.send(close(1001))
    peer.hang_up()
    assert await end(program) == 0
    await halfway.wait_lost()
    assert any("SIGHUP: accepting no more, peers to close: 1" in line for line in program.lines)


@pytest.mark.parametrize("number", [signal.SIGCHLD, signal.SIGPIPE, signal.SIGWINCH, signal.SIGCONT, signal.SIGURG])
async def test_unrelated_signals_change_nothing(program: Program, number: signal.Signals) -> None:
    program.signal(number)
    assert (await (await program.connect()).ask(get())).status == 200


async def test_an_application_that_cant_be_cancelled_is_logged_and_ended_by_a_second_signal(
    start_program: StartProgram, tmp_path: Path
) -> None:
    program = start_program(*write_app(tmp_path), "--drain", "0.1", directory=tmp_path, constants=IMPATIENT)
    for path in ("/thread", "/stubborn"):
        await (await program.connect()).send(get(path))
    assert (await (await program.connect()).ask(get())).status == 204  # both are being answered by now
    program.signal(signal.SIGTERM)
    await trio.to_thread.run_sync(program.wait_for_line, "another signal ends it at once")
    program.signal(signal.SIGTERM)
    assert await end(program) == 1
    assert "ending without it" in program.lines[-1]


BLOCKING_APP = """
import time

async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        while True:
            kind = (await receive())["type"]
            await send({"type": f"{kind}.complete"})
            if kind == "lifespan.shutdown":
                return
    if scope["path"] == "/blocking":
        while True:
            time.sleep(0.1)
    await send({"type": "http.response.start", "status": 204})
    await send({"type": "http.response.body"})
"""


async def test_a_stop_does_not_wait_for_ever_for_a_loop_of_asyncio_that_is_blocked(
    start_program: StartProgram, tmp_path: Path
) -> None:
    (tmp_path / "app.py").write_text(BLOCKING_APP)
    constants = IMPATIENT | {"rawws.application.asyncio_loop.GRACE_S": 0.3}
    flags = ("--app", "app:app", "--no-page", "--drain", "0.1")
    program = start_program(*flags, directory=tmp_path, constants=constants)
    assert (await (await program.connect()).ask(get())).status == 204
    await (await program.connect()).send(get("/blocking"))
    await trio.sleep(0.1)
    program.signal(signal.SIGTERM)
    assert await end(program) == 0
    late = (
        f"the application, whose loop is at {tmp_path}/app.py:13, in app, goes on: a handler, a thread, its startup or"
    )
    blocks = f"the application blocks its loop, in the thread 'rawws-application' at {tmp_path}/app.py:13, in app"
    alarms = [line for line in program.lines if "WARNING" in line or "ERROR" in line]
    assert [part in line for part, line in zip((late, blocks, "the drain of 0.1 s"), alarms, strict=True)] == [True] * 3


async def test_two_signals_end_a_program_whose_loop_is_blocked(start_program: StartProgram, tmp_path: Path) -> None:
    program = start_program(*write_app(tmp_path), directory=tmp_path, constants=IMPATIENT)
    await (await program.connect()).send(get("/blocking"))
    await trio.to_thread.run_sync(program.wait_for_line, "blocking")
    program.signal(signal.SIGTERM)
    program.signal(signal.SIGINT)
    assert await end(program) == 1
    assert "blocks the loop: ending without it" in program.lines[-1]


STARTING_APP = """
import sys, time
import trio

async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        print("starting", file=sys.stderr, flush=True)
        await {}
"""


def write_starting_app(folder: Path, wait: str) -> tuple[str, ...]:
    """Write an application whose startup never ends."""
    (folder / "app.py").write_text(STARTING_APP.format(wait))
    return ("--port", "0", "--app", "app:app", "--no-page")


async def test_a_signal_while_the_application_starts_ends_it(start_program: StartProgram, tmp_path: Path) -> None:
    program = start_program.fork(*write_starting_app(tmp_path, "trio.sleep_forever()"), directory=tmp_path)
    await trio.to_thread.run_sync(program.wait_for_line, "starting")
    program.signal(signal.SIGTERM)
    assert await end(program) == 0
    assert "SIGTERM: ending before anything was served" in program.lines[-2]
    assert program.lines[-1].endswith("#0 = stopped")


async def test_a_startup_that_cant_be_cancelled_is_ended_by_a_second_signal(
    start_program: StartProgram, tmp_path: Path
) -> None:
    wait = "trio.to_thread.run_sync(time.sleep, 1000)"
    flags = write_starting_app(tmp_path, wait)
    program = start_program.fork(*flags, directory=tmp_path, constants=IMPATIENT)
    await trio.to_thread.run_sync(program.wait_for_line, "starting")
    program.signal(signal.SIGTERM)
    await trio.to_thread.run_sync(program.wait_for_line, "another signal ends it at once")
    program.signal(signal.SIGTERM)
    assert await end(program) == 1
    assert "ending without it" in program.lines[-1]


@LINUX
async def test_a_signal_while_the_application_of_workers_starts_ends_them(
    start_program: StartProgram, tmp_path: Path
) -> None:
    flags = write_starting_app(tmp_path, "trio.sleep_forever()")
    async with redis_server(tmp_path) as redis:
        program = start_program.fork(*flags, "--workers", "2", "--backplane", redis.url, directory=tmp_path)
        await trio.to_thread.run_sync(program.wait_for_line, "starting")
        program.signal(signal.SIGTERM)
        assert await end(program) == 0
    assert any("worker 1 #0 = SIGTERM: ending before anything was served" in line for line in program.lines)


@LINUX
async def test_a_worker_that_heeds_no_signal_is_killed_after_a_second_one(
    start_program: StartProgram, tmp_path: Path
) -> None:
    async with redis_server(tmp_path) as redis:
        constants = {"rawws.process.workers.KILL_S": 0.5}
        program = start_program("--workers", "2", "--backplane", redis.url, "--hello", "", constants=constants)
        program.wait_for_line("2 workers listen on")
        workers = workers_of(program)
        os.kill(workers[0], signal.SIGSTOP)
        program.signal(signal.SIGTERM)
        program.wait_for_line("#0 = stopped")  # the other one
        program.signal(signal.SIGTERM)
        assert await end(program) == 1
        assert any("doesn't end by itself: killing it" in line for line in program.lines)
        await wait_gone(workers)


async def wait_workers(program: Program, count: int) -> list[int]:
    """Wait until the program has started at least ``count`` workers, and return their process ids."""
    while True:
        workers = []
        for pid in workers_of(program):  # includes other children, which exist while it is imported
            with contextlib.suppress(OSError):  # it has gone meanwhile
                if VARIABLE.encode() in Path(f"/proc/{pid}/environ").read_bytes():
                    workers.append(pid)
        if len(workers) >= count:
            return workers
        await trio.sleep(0.001)


async def wait_gone(pids: list[int]) -> None:
    for pid in pids:
        while Path(f"/proc/{pid}").exists():
            await trio.sleep(0.01)


@LINUX
async def test_a_signal_while_workers_start_leaves_none_running(start_program: StartProgram) -> None:
    program = start_program.begin("--port", "0", "--workers", "2", "--backplane", f"redis://{LOOPBACK}:{free_port()}")
    workers = await wait_workers(program, 1)
    program.signal(signal.SIGTERM)
    workers += workers_of(program)
    assert await end(program) == 0
    await wait_gone(workers)


@pytest.mark.thorough
@LINUX
async def test_a_worker_ended_during_its_start_is_replaced_and_ctrl_c_ends_all_in_order(
    start_program: StartProgram, tmp_path: Path
) -> None:
    async with redis_server(tmp_path) as redis:
        program = start_program.begin("--port", "0", "--workers", "2", "--backplane", redis.url, "--hello", "")
        workers = await wait_workers(program, 1)
        os.kill(workers[0], signal.SIGTERM)
        program.wait_for_line("ended (SIGTERM); another one comes in")
        line = program.wait_for_line("2 workers listen on")
        workers += workers_of(program)
        program.port = int(line.rpartition(":")[2])
        peer = await (await program.connect()).open()
        os.killpg(program.process.pid, signal.SIGINT)
        assert await peer.frame() == seen_close(1001, "the server is shutting down")
        await peer.send(close(1001))
        peer.hang_up()
        assert await end(program) == 0
        await wait_gone(workers)


async def test_a_signal_during_the_creation_of_a_worker_reaches_it(monkeypatch: pytest.MonkeyPatch) -> None:
    supervisor = _Supervisor([[]])
    open_process = trio.lowlevel.open_process

    async def stop_meanwhile(_: list[str], **settings: Any) -> trio.Process:
        process = await open_process([sys.executable, "-c", "import time; time.sleep(1000)"], **settings)
        supervisor.stop("SIGTERM, on purpose")
        return process

    monkeypatch.setattr(trio.lowlevel, "open_process", stop_meanwhile)
    with trio.CancelScope() as program:
        await supervisor.run(program)
    assert supervisor.status == 0


# A stopped process


async def test_a_peer_that_answered_while_the_process_was_stopped_is_kept(start_program: StartProgram) -> None:
    flags = ("--ping-interval", "0.4", "--ping-timeout", "1", "--open-timeout", "1")
    program = start_program(*flags, "--hello", "")
    peers = [await (await program.connect()).open() for _ in range(6)]
    for peer in peers:
        assert (await peer.frame()).opcode is Opcode.PING
    halfway = await program.connect()
    await halfway.send(get()[:10])
    program.signal(signal.SIGSTOP)
    for peer in peers:
        await peer.send(masked(Opcode.PONG, b"rawws"))
    await halfway.send(get()[10:])
    await trio.sleep(1.4)  # the clock that counts is another process's
    program.signal(signal.SIGCONT)
    assert (await halfway.answer()).status == 200
    for peer in peers:
        await peer.send(masked(Opcode.TEXT, b"still here"))
    for peer in peers:
        while (seen := await peer.frame()).opcode is Opcode.PING:
            pass
        assert seen == seen_text("still here")


@pytest.mark.parametrize("again", [False, True], ids=["the first", "a further one"])
async def test_a_request_that_came_while_the_process_was_stopped_is_answered(
    start_program: StartProgram, again: bool
) -> None:
    program = start_program("--open-timeout", "0.5", "--keep-alive", "0.5", "--no-page")
    client = await program.connect()
    if again:
        assert (await client.ask(get())).status == 200
    else:
        await client.send(get()[:10])
    await trio.sleep(0.1)  # until it waits: the stop interrupts its system call, which then finds nothing (signal(7))
    program.signal(signal.SIGSTOP)
    await client.send(get() if again else get()[10:])
    await trio.sleep(0.6)
    program.signal(signal.SIGCONT)
    assert (await client.answer()).status == 200
    client.hang_up()


# Out of descriptors


def cpu_s(program: Program) -> float:
    """Return the CPU time that the program has used so far, in seconds."""
    fields = Path(f"/proc/{program.process.pid}/stat").read_text("ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def count_descriptors(program: Program) -> int:
    return len(os.listdir(f"/proc/{program.process.pid}/fd"))


def allow_descriptors(program: Program, more: int) -> int:
    """Let a program open ``more`` descriptors than it has, and return the new limit."""
    limit = count_descriptors(program) + more
    resource.prlimit(program.process.pid, resource.RLIMIT_NOFILE, (limit, limit))
    return limit


@LINUX
@pytest.mark.parametrize("tapped", [False, True], ids=["serve", "tap"])
async def test_a_program_without_descriptors_pauses_logs_it_once_and_accepts_again(
    start_program: StartProgram, program: Program, tapped: bool
) -> None:
    program = start_program.tap(program.address) if tapped else start_program("--hello", "")
    bystander = await (await program.connect()).open()
    before = count_descriptors(program)
    allow_descriptors(program, 4)
    began = time.monotonic()
    crowd = [await program.connect() for _ in range(10)]
    program.wait_for_line("Too many open files; accepting rests until some are closed, or more are allowed")
    cpu_before_s = cpu_s(program)
    for client in crowd[:4]:
        client.hang_up()  # and another one comes in its place, but not all do
        await trio.sleep(0.1)
        await bystander.send(masked(Opcode.TEXT, b"undisturbed"))
        assert await bystander.frame() == seen_text("undisturbed")
    assert cpu_s(program) - cpu_before_s < 0.2, "of 0.4 s at least"
    for client in crowd:
        client.hang_up()
    program.wait_for_line("accepting again")
    while count_descriptors(program) > before:
        await trio.sleep(0.01)
    assert (await (await program.connect()).ask(get())).status == 200
    bystander.hang_up()
    program.signal(signal.SIGTERM)
    assert await end(program) == 0
    reports = [line for line in program.lines if "accepting" in line and "#0" in line]
    assert len(reports) <= 2 + 2 * (time.monotonic() - began) / EXHAUSTED_PAUSE_S


@LINUX
@pytest.mark.parametrize("tapped", [False, True], ids=["serve", "tap"])
async def test_a_recording_without_room_is_logged_once_stays_readable_and_can_be_continued(
    start_program: StartProgram, program: Program, tmp_path: Path, capsys: pytest.CaptureFixture[str], tapped: bool
) -> None:
    # A limit on the file's size stands for a full disk: for the writer it is the same. (For a disk that has no byte
    # left, see tests/test_tracing.py.)
    file = tmp_path / "recorded"
    flags = ("--record", str(file))
    program = start_program.tap(program.address, *flags) if tapped else start_program("--hello", "", *flags)
    resource.prlimit(program.process.pid, resource.RLIMIT_FSIZE, (6000, 6000))
    peer = await (await program.connect()).open()
    for _ in range(100):
        await peer.send(masked(Opcode.TEXT, b"undisturbed"))
        assert await peer.frame() == seen_text("undisturbed")
    peer.hang_up()
    assert (await (await program.connect()).ask(get())).status == 200
    program.signal(signal.SIGTERM)
    assert await end(program) == 0
    (error,) = [line for line in program.lines if "ERROR" in line]
    assert error.endswith(f"#0 ! {file} can't be written any more: File too large; nothing is recorded from here on")
    assert file.read_bytes()[-1:] != b"\n", "the last line is cut"

    again = Recording(file)
    again.take(1, {"kind": "open", "from": "another program"})
    again.close()
    assert rawws.cli.main(["decode", str(file)]) == 0
    shown = capsys.readouterr().out
    assert shown.count("'undisturbed'") > 1
    assert "was not written to its end (the disk was full, or the process killed)" in shown
    assert "open: another program" in shown


def start_without_log(forker: Forker, kind: str, *arguments: str) -> subprocess.Popen[bytes] | Forked:
    """Start a program whose standard error can't be written."""
    if kind == "closed":  # Python sees that when it starts
        return subprocess.Popen([sys.executable, "-m", "rawws", *arguments], preexec_fn=partial(os.close, 2))
    if kind == "a full disk":
        if not Path("/dev/full").exists():
            pytest.skip("there is no /dev/full")
        with open("/dev/full", "wb") as full:
            return forker.start(arguments, stderr=full.fileno())
    read, write = os.pipe()
    os.close(read)
    try:
        return forker.start(arguments, stderr=write)
    finally:
        os.close(write)


@pytest.mark.parametrize("kind", ["closed", "a full disk", "a pipe without a reader"])
async def test_a_log_that_cant_be_written_does_not_stop_the_program(forker: Forker, kind: str) -> None:
    port = free_port()
    with start_without_log(forker, kind, "-vv", "--hello", "", "--port", str(port)) as process:
        try:
            client = await connect_when_it_listens(port)
            await client.open()
            for _ in range(100):
                await client.send(masked(Opcode.TEXT, b"undisturbed"))
                assert await client.frame() == seen_text("undisturbed")
            process.send_signal(signal.SIGTERM)
            assert await client.frame() == seen_close(1001, "the server is shutting down")
            client.hang_up()
            assert await trio.to_thread.run_sync(process.wait, PATIENCE_S) == 0
        finally:
            process.kill()


async def connect_when_it_listens(port: int) -> Client:
    while True:
        client = Client.unconnected()
        with contextlib.suppress(ConnectionRefusedError):
            return await client.connect(port)
        client.hang_up()
        await trio.sleep(0.02)


@LINUX
async def test_nothing_is_lost_while_there_is_no_descriptor_for_redis(
    start_program: StartProgram, tmp_path: Path
) -> None:
    async with redis_server(tmp_path) as redis:
        program = start_program("--hello", "", "--backplane", redis.url)
        peer = await (await program.connect()).open("/room")
        await peer.send(masked(Opcode.TEXT, b"first"))
        assert await peer.frame() == seen_text("first")
        limit = allow_descriptors(program, 2)
        crowd = [await program.connect() for _ in range(20)]
        redis.kill()
        program.wait_for_line("the backplane is away (")
        while count_descriptors(program) < limit:  # until waiting connections have taken the connector's descriptor
            await trio.sleep(0.01)
        await redis.start()
        await peer.send(masked(Opcode.TEXT, b"kept"))
        before = cpu_s(program)
        with trio.move_on_after(0.5) as waiting:
            await peer.frame()
        assert waiting.cancelled_caught
        assert cpu_s(program) - before < 0.25, "of 0.5 s"
        for client in crowd:
            client.hang_up()
        program.wait_for_line("the backplane is back")
        assert await peer.frame() == seen_text("kept")
        peer.hang_up()
        program.signal(signal.SIGTERM)
        assert await end(program) == 0


@pytest.mark.parametrize("url", ["redis://127.0.0.1:1", "unix:///nowhere"])
async def test_an_outage_of_redis_has_the_name_of_its_cause(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    # No descriptor of this very process may be missing for long: pytest needs them too.
    def no_descriptor(*_: object, **__: object) -> NoReturn:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    sentences: list[str] = []
    with trio.CancelScope() as scope:

        def note(trouble: Trouble) -> None:
            sentences.append(trouble.sentence)
            scope.cancel()

        monkeypatch.setattr(trio.socket, "socket", no_descriptor)
        await Connector(url).run_with_reconnect(_nothing_to_do, on_away=note)
    assert sentences == ["Too many open files"]


async def _nothing_to_do(_: object) -> None:
    pass


# Out of memory for buffers


@pytest.mark.parametrize("number", [errno.ENOBUFS, errno.ENOMEM], ids=errno.errorcode.get)
@pytest.mark.parametrize("sends", ["a message of the room", "a pong"])
async def test_a_send_without_memory_ends_one_connection_and_names_this_machine(
    serve: Serve, caplog: pytest.LogCaptureFixture, number: int, sends: str
) -> None:
    # The kernel can't be asked to fail a real send() in this way, so the socket's own method is replaced.
    def fail(_: object) -> NoReturn:
        raise OSError(number, os.strerror(number))

    caplog.set_level(logging.INFO, "rawws")
    running = await serve()
    struck, bystander = await running.open(), await running.open()
    current_loop().peers_of(running.server._endpoint)[0].transport.send_now = fail
    if sends == "a pong":
        await struck.send(ping())
        await struck.wait_lost()
    await bystander.send(masked(Opcode.TEXT, b"undisturbed"))
    assert await bystander.frame() == seen_text("undisturbed")
    await struck.wait_lost()
    why = f"{os.strerror(number)}: this machine had no memory for it"
    (record,) = [record for record in caplog.records if why in record.getMessage()]
    assert record.exc_info is None
    newcomer = await running.open()
    await newcomer.send(ping(b"?"))
    assert await newcomer.frame() == Seen(Opcode.PONG, b"?")


# The wall clock


async def test_the_wall_clock_only_dates_records_responses_grants_and_leases() -> None:
    root = Path(rawws.__file__).parent
    asks = re.compile(r"\btime\.time|datetime|gettimeofday|CLOCK_REALTIME|from time import")
    found = {str(path.relative_to(root)) for path in root.rglob("*.py") if asks.search(path.read_text("utf-8"))}
    assert found == {
        "tracing.py",
        "hub/administration.py",
        "net/transport.py",
        "page/feed.py",
        "server/authorization.py",
        "server/connection.py",
        "server/room_posts.py",
        "server/room_readers.py",
        "server/auth_url.py",
        "server/jwt_source.py",
        "cli/store.py",
        "groups/groups.py",
        "groups/over_http.py",
        "groups/push.py",
        "groups/runner.py",
        "groups/websockets.py",
        "local/serving.py",
        "store/loaded_room.py",
        "store/memory_engine.py",
        "store/sqlite_engine.py",
        "store/sqlite_schema.py",
    }


async def test_jumps_of_the_wall_clock_change_no_deadline_and_no_age(
    nursery: trio.Nursery, clients: list[HangsUp], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    tracer = Tracer()
    recording = Recording(tmp_path / "recorded")
    tracer.add(recording)
    hub = rawws.Hub(history=10, history_age_s=60)
    limits: dict[str, Any] = {"ping_interval": 0.1, "ping_timeout": PATIENCE_S, "keep_alive": PATIENCE_S, "rate": 1000}
    server: rawws.Server = await nursery.start(
        partial(rawws.serve, hub, 0, host=LOOPBACK, tracer=tracer, drain=0, **limits)
    )
    running = Running(server, hub, clients)
    resting = await running.connect()
    assert (await resting.ask(get("/healthz"))).status == 426
    peer = await running.open("/room", "Sec-WebSocket-Protocol: rawws.id.v1")
    ids = [await next_id(peer)]
    hours = 3600.0
    for now in (time.time() + 5 * hours, time.time() - 50 * hours, 0.0, time.time() + 5e5 * hours):
        monkeypatch.setattr(time, "time", partial(float, now))
        await peer.send(masked(Opcode.TEXT, b"a"))
        ids.append(await next_id(peer))
        while (await peer.frame()).opcode is not Opcode.PING:  # pings come in time, and no peer is dropped
            pass
    epoch = ids[0].partition("-")[0]
    assert ids == [f"{epoch}-{number}" for number in range(5)]
    newcomer = await running.open(f"/room?since={ids[0]}")
    assert [await newcomer.frame() for _ in range(4)] == [seen_text("a")] * 4
    assert (await resting.ask(get("/healthz"))).status == 426
    tracer.remove(recording)
    recording.close()
    dates = [from_line(line).at for line in (tmp_path / "recorded").read_text("ascii").splitlines()]
    assert 0.0 in dates
    server.stop()


async def next_id(peer: Client) -> str:
    """Return the id of the next message, or of the place where the peer begins."""
    while (seen := await peer.frame()).opcode is not Opcode.TEXT:
        pass
    head = json.loads(seen.payload.partition(b"\n")[0])
    return str(head.get("id") or head["at"])


# A program that blocks, or goes wrong


async def test_a_peer_that_answered_while_a_callback_blocked_is_kept(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    running = await serve(limits=Limits(ping_interval_s=0.2, ping_timeout_s=0.6))
    peers = [await running.open() for _ in range(5)]
    for peer in peers:
        assert (await peer.frame()).opcode is Opcode.PING
    for peer in peers:
        peer.try_send(masked(Opcode.PONG, b"rawws"))
    time.sleep(1.0)  # as a callback might, in the only thread that there is
    for peer in peers:
        await peer.send(masked(Opcode.TEXT, b"still here"))
    await trio.testing.wait_all_tasks_blocked()
    assert running.server.peer_count == len(peers)
    assert "the event loop was blocked for at least" in caplog.text


async def keep_cancelled() -> trio.Cancelled:
    """Return the exception with which trio has cancelled something."""
    with trio.CancelScope() as scope:
        scope.cancel()
        try:
            await trio.lowlevel.checkpoint()
        except trio.Cancelled as cancelled:
            kept = cancelled
    return kept


async def fail(kind: str) -> NoReturn:
    """Raise one of the exceptions that may concern only the application's own client."""
    error = ZeroDivisionError("on purpose")
    match kind:
        case "a group":
            raise ExceptionGroup("some", [error, ValueError("too")])
        case "a group in a group":
            raise ExceptionGroup("outer", [ExceptionGroup("inner", [error])])
        case "groups nested more deeply than Python calls":
            nested: Exception = error
            for _ in range(600):
                nested = ExceptionGroup("nested", [nested])
            raise nested
        case "a cancellation, kept for later":
            raise await keep_cancelled()
        case "a group with one":
            raise BaseExceptionGroup("some", [await keep_cancelled(), error])
        case "a group of nothing else":
            raise BaseExceptionGroup("outer", [BaseExceptionGroup("inner", [await keep_cancelled()])])
        case _:
            raise asyncio.CancelledError


FAILURES = pytest.mark.parametrize(
    "kind",
    [
        "a group",
        "a group in a group",
        "groups nested more deeply than Python calls",
        "a cancellation, kept for later",
        "a group with one",
        "a group of nothing else",
        "asyncio's cancellation",
    ],
)


@FAILURES
async def test_any_error_of_a_handler_costs_its_connection_alone(
    nursery: trio.Nursery, open_at: Open, caplog: pytest.LogCaptureFixture, kind: str
) -> None:
    async def handle(ws: rawws.WebSocket) -> None:
        async for message in ws:
            await ws.send(message)
            if message == "fail":
                await fail(kind)

    server: rawws.Server = await nursery.start(partial(rawws.serve, handle, 0, host=LOOPBACK, drain=0))
    bystander, struck = await open_at(server), await open_at(server)
    await struck.send(masked(Opcode.TEXT, b"fail"))
    assert (await struck.frames_to_close())[-1] == seen_close(1011, "internal error")
    await bystander.send(masked(Opcode.TEXT, b"undisturbed"))
    assert await bystander.frame() == seen_text("undisturbed")
    assert [r.getMessage() for r in caplog.records if r.exc_info] == [
        "#2 ! the handler failed; its connection is closed with 1011"
    ]
    server.stop()


@FAILURES
async def test_any_error_of_an_http_handler_or_hook_is_a_500(
    nursery: trio.Nursery, clients: list[HangsUp], caplog: pytest.LogCaptureFixture, kind: str
) -> None:
    async def handle(ws: rawws.WebSocket) -> None:
        async for message in ws:
            await ws.send(message)

    async def http(_: rawws.Request) -> str:
        await fail(kind)

    async def authenticate(request: rawws.Request) -> None:
        if request.path == "/fail":
            await fail(kind)

    serve = partial(rawws.serve, handle, 0, host=LOOPBACK, http=http, authenticate=authenticate, drain=0)
    server: rawws.Server = await nursery.start(serve)
    client, bystander = Client.unconnected(), Client.unconnected()
    clients += [client, bystander]
    await client.connect(server.port)
    assert (await client.ask(get("/"))).status == 500
    assert (await client.ask(upgrade("/fail"))).status == 500
    await (await bystander.connect(server.port)).open()
    await bystander.send(masked(Opcode.TEXT, b"undisturbed"))
    assert await bystander.frame() == seen_text("undisturbed")
    assert [r.getMessage() for r in caplog.records if r.exc_info] == [
        "#1 ! the http handler failed at /",
        "#1 ! authenticate failed",
    ]
    server.stop()


@FAILURES
@pytest.mark.parametrize("before", [True, False], ids=["before it has answered", "after its answer"])
async def test_any_error_of_an_asgi_application_costs_its_answer_alone(
    caplog: pytest.LogCaptureFixture, kind: str, before: bool
) -> None:
    @only_http
    async def app(scope: Scope, _: Receive, send: Send) -> None:
        if before and scope["path"] == "/fail":
            await fail(kind)
        await answer(send)
        if scope["path"] == "/fail":
            await fail(kind)

    async with serving(app) as site:
        client = await site.connect()
        assert (await client.ask(get("/fail"))).status == (500 if before else 200)
        assert (await client.ask(get())).status == 200
    (record,) = errors(caplog)
    failure = "the ASGI application failed at /fail after it had answered"
    assert record.getMessage().removeprefix("#1 ! ") == ("the http handler failed at /fail" if before else failure)


@FAILURES
@pytest.mark.parametrize("starts", [False, True], ids=["before it has started", "when it is up"])
async def test_any_error_of_an_asgi_lifespan_leaves_the_server_up(kind: str, starts: bool) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await answer(send)
            return
        if starts:
            await receive()
            await send({"type": "lifespan.startup.complete"})
        await fail(kind)

    async with serving(app) as site:
        assert await site.ask(get()) == (200, b"ok")


def raises(error: BaseException) -> Callable[..., Any]:
    """Return a callback that raises an error, except at the message 1."""

    def act(_: object, data: object = None) -> object:
        if data != "1":
            raise error
        return data

    return act


async def post(port: int) -> None:
    async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
        await stream.send_all(
            b"POST /room HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer t\r\nContent-Length: 3\r\n\r\nbad"
        )
        await stream.receive_some()


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(3), BaseExceptionGroup("some", [SystemExit(3)])])
@pytest.mark.parametrize("callback", ["message", "opened", "closed", "on_message", "on_join", "on_leave", "a POST"])
async def test_a_callback_that_ends_the_program_does_so(
    open_at: Open, caplog: pytest.LogCaptureFixture, callback: str, error: BaseException
) -> None:
    act = raises(error)
    handler: Any
    http = None
    if callback.startswith("on_"):
        handler = rawws.Hub(**{callback: act})  # type: ignore[arg-type]
    elif callback == "a POST":
        handler = rawws.Hub(on_message=act)
        http = rawws.rooms(handler, publish_token="t")
    else:
        handler = SimpleNamespace(**{callback: act})

    async def run() -> None:
        async with trio.open_nursery() as nursery:
            server: rawws.Server = await nursery.start(partial(rawws.serve, handler, 0, host=LOOPBACK, http=http))
            if callback == "a POST":
                nursery.start_soon(post, server.port)
                return
            client = await open_at(server)
            await client.send(masked(Opcode.TEXT, b"1") + masked(Opcode.TEXT, b"now"))
            if callback in ("closed", "on_leave"):
                client.hang_up()

    with pytest.raises(BaseExceptionGroup) as raised:
        with trio.fail_after(PATIENCE_S):
            await run()
    assert raised.value.split(type(error) if not isinstance(error, BaseExceptionGroup) else SystemExit)[1] is None
    assert not any(errors(caplog, logger) for logger in ("rawws.hub", "rawws.http")), "it is no failure"


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, "a group"])
async def test_a_handler_that_ends_the_program_closes_its_peers_with_1001(
    open_at: Open, error: type[BaseException] | str
) -> None:
    kind = error if isinstance(error, type) else KeyboardInterrupt

    async def handle(ws: rawws.WebSocket) -> None:
        async for _ in ws:
            raise error if isinstance(error, type) else BaseExceptionGroup("some", [ZeroDivisionError(), kind()])

    opened: list[Client] = []

    async def run() -> None:
        async with trio.open_nursery() as nursery:
            server: rawws.Server = await nursery.start(partial(rawws.serve, handle, 0, host=LOOPBACK))
            opened.extend([await open_at(server), await open_at(server)])
            await opened[0].send(masked(Opcode.TEXT, b"now"))

    with pytest.raises(BaseExceptionGroup) as raised:
        await run()
    assert raised.value.split((kind, ZeroDivisionError))[1] is None
    for client in opened:
        assert await client.frame() == seen_close(1001, "the server is shutting down")


async def test_further_callbacks_that_end_the_program_are_no_failures(
    open_at: Open, caplog: pytest.LogCaptureFixture
) -> None:
    handler = SimpleNamespace(closed=raises(SystemExit(3)))

    async def run() -> None:
        async with trio.open_nursery() as nursery:
            server: rawws.Server = await nursery.start(partial(rawws.serve, handler, 0, host=LOOPBACK))
            await open_at(server)
            (await open_at(server)).hang_up()

    with pytest.raises(BaseExceptionGroup), trio.fail_after(PATIENCE_S):
        await run()
    assert not errors(caplog, "rawws.hub"), "it is no failure"
