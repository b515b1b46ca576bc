"""``rawws check`` against servers of others, against our own, and against one that gets everything wrong."""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import json
import os
import re
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest
import trio

import rawws
import rawws.cli
import rawws.logs
from benchmarks import servers
from benchmarks.servers import Wish
from rawws.inspection.conformance import BY_NAME, CASES
from rawws.tools import checker
from rawws.tools.checker import Checker, Result
from rawws.wire.handshake import Accept
from tests.forked import Forked, Forker
from tests.manual import page
from tests.serving.machine import LOOPBACK, PATIENCE_S, need, pace
from tests.serving.wire import get

# An answer after this delay is late, in the tests of late answers.
LATE_S = 0.25

Check = Callable[..., tuple[int, list[str]]]


@pytest.fixture(autouse=True)
def own_log(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the command from configuring the log."""
    monkeypatch.setattr(rawws.logs, "configure", lambda _: None)


@pytest.fixture
def check(capsys: pytest.CaptureFixture[str]) -> Check:
    def run(*arguments: str) -> tuple[int, list[str]]:
        status = rawws.cli.main(["check", *arguments])
        return status, capsys.readouterr().out.splitlines()

    return run


# The rows of the manual's table, and the distributions whose versions it names.
ROWS = {
    "rawws": ("rawws", ""),
    "ws": ("npm `ws`", "ws"),
    "websockets": ("Python `websockets`", "websockets"),
    "aiohttp": ("aiohttp", "aiohttp"),
    "trio-websocket": ("trio-websocket", "trio-websocket"),
    "uwebsockets": ("uWebSockets", "socketify"),
}


# The time limit of an answer; a busy machine needs more than a moment.
ANSWER_S = 1.0


class Background:
    """``rawws check`` as a program, beside others: most of its time is spent waiting for a server that is mute."""

    def __init__(self, forker: Forker, port: int, constants: Mapping[str, float] | None = None) -> None:
        arguments = ["check", "--json", "--timeout", f"{ANSWER_S * pace():g}", f"ws://{LOOPBACK}:{port}/"]
        pipe = subprocess.PIPE
        self.program = forker.start(arguments, stdin=pipe, stdout=pipe, stderr=pipe, constants=constants)

    @functools.cached_property
    def outcome(self) -> tuple[int, dict[str, tuple[str, str]], str]:
        """Return the status, each case's verdict and answer, and the text on standard error, when it has ended."""
        out, err = self.program.communicate(b"", PATIENCE_S)
        records = {each["case"]: (each["verdict"], each["got"]) for each in json.loads(out)}
        return self.program.wait(), records, err.decode()


@pytest.fixture(scope="module")
def rows(forker: Forker, request: pytest.FixtureRequest) -> Iterator[dict[str, Background | str]]:
    """Start each server of the table that will be asked for, and a check of it; give the reason where that can't be."""
    wanted = {item.callspec.params.get("row") for item in request.session.items if hasattr(item, "callspec")}
    rows: dict[str, Background | str] = {}
    with pytest.MonkeyPatch.context() as patch, contextlib.ExitStack() as running:
        if "RAWWS_NODE_MODULES" in os.environ:
            patch.setenv("NODE_PATH", os.environ["RAWWS_NODE_MODULES"])
        for name in filter(wanted.__contains__, ROWS):
            server = servers.BY_NAME[name]
            if missing := server.missing():
                rows[name] = f"{server.title}, or what it needs ({missing}),"
            else:
                port = running.enter_context(servers.started(server, Wish())).port
                rows[name] = check = Background(forker, port)
                running.enter_context(check.program)
        yield rows


@pytest.mark.parametrize(
    "row", [pytest.param(name, marks=() if name in ("rawws", "ws") else pytest.mark.thorough) for name in ROWS]
)
def test_widely_used_servers_pass_as_the_manual_says(rows: dict[str, Background | str], row: str) -> None:
    check = rows[row]
    if isinstance(check, str):
        need(None, check)
        return
    status, results, _ = check.outcome
    assert list(results) == [case.name for case in CASES]
    verdicts = {case: verdict for case, (verdict, _) in results.items()}
    assert_as_in_manual(row, list(verdicts.values()))
    if row == "rawws":
        assert set(verdicts.values()) == {"good"}
        assert status == 0
        return
    # Their answers to broken input differ from version to version. But they are good servers: a checker that reports
    # a refusal of legal input, or can't run a case, is wrong itself.
    faults = {case: f"{verdict}: {results[case][1]}" for case, verdict in verdicts.items() if verdict != "good"}
    assert "unclear" not in verdicts.values(), faults
    legal = [case.name for case in CASES if case.rule.startswith(("101", "take it", "a pong", "answer with"))]
    assert len(legal) == 14
    assert {case: faults.get(case) for case in legal} == dict.fromkeys(legal)
    assert {verdicts[case] for case in ("rsv2", "opcode-3", "ping-126", "bad-utf-8")} <= {"good", "lax"}
    assert status == ("bad" in verdicts.values())


def assert_as_in_manual(name: str, verdicts: list[str]) -> None:
    """Compare the counts with the manual's table, if the installed version is the table's."""
    text = page("howto/check")
    row, distribution = ROWS[name]
    if distribution:
        measured = re.search(rf"\b{distribution}\s([\d.]*\d)", text)
        assert measured is not None
        if not f"{servers.BY_NAME[name].versions()[distribution]}.".startswith(f"{measured[1]}."):
            return
    counts = [verdicts.count(verdict) for verdict in ("good", "lax", "bad")]
    assert "| {} | {} | {} | {} |".format(row, *counts) in text


async def accept_all(stream: trio.SocketStream) -> bool:
    """Answer anything like a request with a 101; return False if nothing came."""
    said = b""
    while b"\r\n\r\n" not in said:
        data = await stream.receive_some()
        if not data:
            return False
        said += data
    key = next((line[19:] for line in said.decode("latin-1").split("\r\n") if line[:18] == "Sec-WebSocket-Key:"), "")
    await stream.send_all(
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Accept: " + Accept.of(key).value.encode() + b"\r\n\r\n"
    )
    return True


async def say_yes(stream: trio.SocketStream) -> None:
    """Accept everything, send a masked frame, and ignore all input."""
    async with stream:
        if await accept_all(stream):
            await stream.send_all(b"\x81\x82abcd\x09\x0b")
            await trio.sleep_forever()


async def flood(stream: trio.SocketStream) -> None:
    """Send messages without end."""
    with contextlib.suppress(trio.BrokenResourceError):
        async with stream:
            if await accept_all(stream):
                while True:
                    await stream.send_all(b"\x81\x01a" * 20_000)


async def take_its_time(upstream: int, stream: trio.SocketStream) -> None:
    """Forward each answer of a server a quarter of a second late."""

    async def pass_on(source: trio.SocketStream, sink: trio.SocketStream, delay_s: float) -> None:
        with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            async for data in source:
                await trio.sleep(delay_s)
                await sink.send_all(data)
            await sink.send_eof()

    async with stream, await trio.open_tcp_stream(LOOPBACK, upstream) as server, trio.open_nursery() as nursery:
        nursery.start_soon(pass_on, stream, server, 0)
        nursery.start_soon(pass_on, server, stream, LATE_S)


async def say_nothing(stream: trio.SocketStream) -> None:
    async with stream:
        await trio.sleep_forever()


async def hang_up(stream: trio.SocketStream) -> None:
    async with stream:
        await stream.receive_some()


async def speak_another_protocol(stream: trio.SocketStream) -> None:
    async with stream:
        await stream.send_all(b"SSH-2.0-OpenSSH_9.6\r\n")
        await trio.sleep_forever()


def served(handler: Callable[[trio.SocketStream], Awaitable[None]]) -> Iterator[int]:
    """A server in a thread of its own, since the command runs a loop of its own; yields its port."""
    ports: list[int] = []
    ready = threading.Event()
    stop: list[Callable[[], object]] = []

    async def serve_one(stream: trio.SocketStream) -> None:
        with contextlib.suppress(trio.BrokenResourceError):  # the command may end at any time
            await handler(stream)

    async def serve() -> None:
        async with trio.open_nursery() as nursery:
            listeners = await nursery.start(partial(trio.serve_tcp, serve_one, 0, host="127.0.0.1"))
            ports.append(listeners[0].socket.getsockname()[1])
            stop.append(
                partial(
                    trio.from_thread.run_sync,
                    nursery.cancel_scope.cancel,
                    trio_token=trio.lowlevel.current_trio_token(),
                )
            )
            ready.set()

    thread = threading.Thread(target=trio.run, args=(serve,))
    thread.start()
    assert ready.wait(PATIENCE_S)
    yield ports[0]
    stop[0]()
    thread.join(PATIENCE_S)


on_port = contextlib.contextmanager(served)


@pytest.fixture
def yes_man() -> Iterator[int]:
    yield from served(say_yes)


@pytest.fixture
def flooder() -> Iterator[int]:
    yield from served(flood)


def test_a_server_that_gets_everything_wrong_fails(check: Check, yes_man: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checker, "AT_ONCE", len(CASES))
    monkeypatch.setattr(checker, "ALONE_S", 0.0)  # every case is answered with silence
    status, lines = check("--timeout", f"{0.3 * pace():g}", f"ws://127.0.0.1:{yes_man}/")
    assert status == 1
    verdicts = {line.split()[1]: line.split()[0] for line in lines if line[:1] != " "}
    good = {name for name, verdict in verdicts.items() if verdict == "good"}
    assert good == {"handshake", "tokens", "odd-offer"}
    lax = {name for name, verdict in verdicts.items() if verdict == "lax"}
    assert lax == {"two-keys", "length-too-large", "long-form-16", "long-form-64"}
    assert lines[-1] == f"3 good, 4 lax, {len(CASES) - 7} BAD"


def test_one_case_with_its_story(check: Check, yes_man: int) -> None:
    status, lines = check(
        "--only", "unmasked", "-v", "--timeout", f"{0.3 * pace():g}", f"ws://127.0.0.1:{yes_man}/room?a=1"
    )
    assert status == 1
    shown = [line.strip() for line in lines]
    assert shown[0] == "BAD      unmasked           a frame that is not masked: nothing: the connection stayed open"
    assert shown[1] == "RFC 6455 §5.1: fail the connection: a close with 1002, and the end of TCP"
    assert "GET /room?a=1 HTTP/1.1" in shown
    assert any(line.endswith("TEXT fin=1 rsv=000 mask=none len=5 'hello'") for line in shown)
    assert shown[-2:] == ["= the connection is open still", "1 BAD"]


def test_ctrl_c_ends_it_without_a_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    connections = 0

    async def interrupt_the_tenth(stream: trio.SocketStream) -> None:
        nonlocal connections
        connections += 1
        if connections == 10:
            os.kill(os.getpid(), signal.SIGINT)
        await say_yes(stream)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with on_port(interrupt_the_tenth) as port:
            assert rawws.cli.main(["check", "--timeout", f"{PATIENCE_S}", f"ws://127.0.0.1:{port}/"]) == 130
    finally:
        signal.signal(signal.SIGINT, before)
    assert capsys.readouterr().err == ""


def test_a_server_that_floods_takes_no_longer_than_one_that_is_mute(check: Check, flooder: int) -> None:
    for timeout_s in (0.1, 0.5, 2):  # the flooder may have had little of a busy machine
        began = time.thread_time()  # a clock would count other work on the machine too
        status, lines = check("--only", "fragments", "-v", "--timeout", f"{timeout_s}", f"ws://127.0.0.1:{flooder}/")
        assert time.thread_time() - began < 5  # it reads for no longer than that, and prints the story
        assert status == (lines[0].split()[0] == "BAD")
        assert lines[0].startswith(("BAD      fragments", "unclear  fragments"))
        assert len(lines) < 5000
        if lines[-3].endswith(" bytes more came, which are left out here"):
            return
    pytest.fail(f"all of the story is told: {lines[-3]}")


async def test_frames_of_an_answer_are_dropped_after_the_verdict(nursery: trio.Nursery) -> None:
    """One of a million small frames would be a gigabyte in sixty cases."""
    (listener,) = await nursery.start(partial(trio.serve_tcp, flood, 0, host="127.0.0.1"))
    uri = f"ws://127.0.0.1:{listener.socket.getsockname()[1]}/"
    result = await Checker(uri, patience_s=3 * pace()).run_case(BY_NAME["fragments"])
    assert result.answer.raw
    assert not result.answer.seen
    assert "heads and frames, and went on" in result.outcome.got
    nursery.cancel_scope.cancel()


def test_a_slow_server_is_not_a_mute_one(forker: Forker) -> None:
    with faulty(forker, "none") as server, on_port(partial(take_its_time, server.port)) as slow:
        results: list[Result] = []
        cases = [BY_NAME[name] for name in ("handshake", "fragments", "unmasked", "close", "half-a-frame")]
        trio.run(Checker(f"ws://127.0.0.1:{slow}/", patience_s=2 * LATE_S).run, cases, results.append)
    assert {result.case.name: result.outcome.verdict.value for result in results} == dict.fromkeys(
        (case.name for case in cases), "good"
    )


@pytest.mark.parametrize(
    ("handler", "patience_s", "message"),
    [
        (say_nothing, 0.3, "the server hasn't answered an ordinary handshake within 0.3 s"),
        (hang_up, PATIENCE_S, "the server has ended the connection without an answer to an ordinary handshake"),
        (speak_another_protocol, 0.3, "the server hasn't answered an ordinary handshake within 0.3 s"),
    ],
)
def test_a_port_that_answers_no_handshake_is_not_tried(
    capsys: pytest.CaptureFixture[str],
    handler: Callable[[trio.SocketStream], Awaitable[None]],
    patience_s: float,
    message: str,
) -> None:
    with on_port(handler) as port:
        assert rawws.cli.main(["check", "--timeout", str(patience_s), f"ws://127.0.0.1:{port}/"]) == 3
    assert capsys.readouterr() == ("", f"rawws: ws://127.0.0.1:{port}/: {message}\n")


async def test_a_case_is_shown_in_the_order_of_cause_and_effect(nursery: trio.Nursery) -> None:
    server = await nursery.start(partial(rawws.serve, rawws.Hub(hello="welcome"), 0, host=LOOPBACK))
    result = await Checker(f"ws://127.0.0.1:{server.port}/x").run_case(BY_NAME["unmasked"])
    frames = [line for line in result.story() if re.match(r"\w+ → \w+, byte \d+: [A-Z]+ fin=1", line)]
    kinds = [re.sub(r"(\w+) → \w+, byte \d+: ([A-Z]+) .*", r"\1 \2", line) for line in frames]
    greeting = ["server TEXT"] * kinds.count("server TEXT")  # it may come before the frame, or after it
    assert [line for line in kinds if line not in greeting] == ["client TEXT", "server CLOSE", "client CLOSE"]
    assert result.sent.endswith(BY_NAME["unmasked"].frames + b"\x88\x82\x37\xfa\x21\x3d\x34\x12")
    nursery.cancel_scope.cancel()


async def test_an_incomplete_frame_is_reported_before_the_close_that_it_causes(nursery: trio.Nursery) -> None:
    server = await nursery.start(partial(rawws.serve, rawws.Hub(hello=None), 0, host=LOOPBACK))
    result = await Checker(f"ws://127.0.0.1:{server.port}/x").run_case(BY_NAME["length-too-large"])
    shown = [re.sub(r", byte \d+", "", line) for line in result.story() if re.match(r"\w+ → \w+, byte \d+: [^H]", line)]
    assert [line[:55] for line in shown] == [
        "client → server: the frame so far: 9,223,372,036,854,77",
        "server → client: CLOSE fin=1 rsv=000 mask=none len=58 1",
    ]
    nursery.cancel_scope.cancel()


def test_the_cases_can_be_listed(check: Check) -> None:
    status, lines = check("--list")
    assert status == 0
    assert len(lines) == 2 * len(CASES)


@pytest.fixture(params=["a full disk", "a pipe without a reader"])
def unwritable(request: pytest.FixtureRequest) -> Iterator[tuple[str, int]]:
    """A descriptor that can't be written, and its name."""
    if request.param == "a full disk":
        if not Path("/dev/full").exists():
            pytest.skip("only Linux has a device that is full")
        descriptor = os.open("/dev/full", os.O_WRONLY)
    else:
        reading, descriptor = os.pipe()
        os.close(reading)
    yield request.param, descriptor
    os.close(descriptor)


@pytest.mark.parametrize("arguments", ["--list", "URL", "--json URL"])
def test_closed_or_full_output_is_reported(
    forker: Forker, yes_man: int, arguments: str, unwritable: tuple[str, int]
) -> None:
    kind, output = unwritable
    arguments = arguments.replace("URL", f"--only rsv2 --timeout 0.3 ws://127.0.0.1:{yes_man}/")
    with forker.start(["check", *arguments.split()], stdout=output, stderr=subprocess.PIPE) as ran:
        assert ran.stderr is not None
        message = ran.stderr.read().decode()
        status = ran.wait(PATIENCE_S)
    if kind == "a full disk":
        assert (status, message) == (1, "rawws: standard output can't be written: No space left on device\n")
    else:
        assert (status, message) == (0, "")


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        ([], 2, "say which server to check"),
        (["--only", "nothing", "ws://localhost/"], 2, "there is no case 'nothing'"),
        (["ftp://localhost/"], 2, "ftp://localhost/"),
        (["127.0.0.1:1"], 3, "can't connect to 127.0.0.1:1: Connection refused"),
        (["ws://127.0.0.1:1/"], 3, "can't connect to 127.0.0.1:1: Connection refused"),
    ],
)
def test_an_invalid_command_is_reported_in_one_sentence(
    capsys: pytest.CaptureFixture[str], arguments: list[str], status: int, message: str
) -> None:
    assert rawws.cli.main(["check", *arguments]) == status
    error = capsys.readouterr().err
    assert error.startswith("rawws: ")
    assert message in error
    assert error.count("\n") == 1


# Servers that don't survive a case

# The delay of a supervisor before it restarts a server: systemd's default RestartSec.
RESTART_S = 0.1


class Faulty:
    """Processes of ``tests.dying_server`` on one port; each starts when the previous one has ended."""

    def __init__(self, forker: Forker, fault: str, deadly: bytes, *, is_restarted: bool) -> None:
        self._forker = forker
        self._arguments = [fault, deadly.hex()]
        self._is_restarted = is_restarted
        self._stopping = threading.Event()
        self.port = 0
        self.processes: list[Forked] = []
        self._start()
        self._supervisor = threading.Thread(target=self._supervise)
        self._supervisor.start()

    def _start(self) -> None:
        with socket.socket() as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind((LOOPBACK, self.port))
            listener.listen(100)
            self.port = listener.getsockname()[1]
            self.processes.append(
                self._forker.start(
                    self._arguments, module="tests.dying_server", stdin=listener.fileno(), leads_session=True
                )
            )

    def _supervise(self) -> None:
        self.processes[-1].wait()
        while self._is_restarted and not self._stopping.wait(RESTART_S):
            self._start()
            self.processes[-1].wait()

    def stop(self) -> None:
        self._stopping.set()
        while self._supervisor.is_alive():
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.processes[-1].pid, signal.SIGKILL)
            self._supervisor.join(RESTART_S)


@contextlib.contextmanager
def faulty(forker: Forker, fault: str, deadly: bytes = bytes(99), *, is_restarted: bool = False) -> Iterator[Faulty]:
    need(importlib.util.find_spec("websockets") is not None, "websockets")
    server = Faulty(forker, fault, deadly, is_restarted=is_restarted)
    try:
        with socket.create_connection((LOOPBACK, server.port), PATIENCE_S) as client:
            client.sendall(get())
            assert client.recv(1), "the server has begun to answer"
        yield server
    finally:
        server.stop()


def run_cases(port: int) -> dict[str, str]:
    results: list[Result] = []
    trio.run(Checker(f"ws://127.0.0.1:{port}/", patience_s=ANSWER_S * pace()).run, CASES, results.append)
    return {result.case.name: result.outcome.verdict.value.lower() for result in results}


DEADLY = {
    "": bytes(99),
    "two-keys": b"==\r\nSec-WebSocket-Key",
    "ping-126": BY_NAME["ping-126"].frames,
    "close-bad-utf-8": BY_NAME["close-bad-utf-8"].frames,  # the last
}

# Each fault with the case that causes it.
FINAL = [("crash", "two-keys"), ("crash", "ping-126"), ("hang", "ping-126"), ("crash", "close-bad-utf-8")]
RESTARTED = [("crash", "ping-126"), ("fork", "two-keys"), ("fork", "close-bad-utf-8")]


@dataclass(frozen=True)
class Faults:
    """Servers with faults, and their checks."""

    servers: dict[tuple[str, str, bool], Faulty]
    checks: dict[tuple[str, str, bool], Background]

    def outcome(
        self, fault: str, name: str = "", *, is_restarted: bool = False
    ) -> tuple[int, dict[str, tuple[str, str]], str]:
        return self.checks[fault, name, is_restarted].outcome


@pytest.fixture(scope="module")
def faults(forker: Forker) -> Iterator[Faults]:
    """Start all of them at once. A server that doesn't return is waited for a second in place of ten."""
    faults = Faults({}, {})
    final = [(*each, False) for each in [*FINAL, ("none", ""), ("leak", "")]]
    restarted = [(*each, True) for each in RESTARTED]
    with contextlib.ExitStack() as running:
        for key in final + restarted:
            fault, name, is_restarted = key
            server = running.enter_context(faulty(forker, fault, DEADLY[name], is_restarted=is_restarted))
            constants = {} if is_restarted else {"rawws.tools.checker.RETURN_S": 1.0}
            faults.servers[key] = server
            faults.checks[key] = check = Background(forker, server.port, constants)
            running.enter_context(check.program)
        yield faults


@pytest.fixture(scope="module")
def intact(faults: Faults) -> dict[str, str]:
    """The verdicts on the same server without a fault."""
    _, results, _ = faults.outcome("none")
    return {case: verdict for case, (verdict, _) in results.items()}


@pytest.mark.parametrize(("fault", "name"), FINAL)
def test_a_server_that_crashes_in_a_case_is_reported(
    faults: Faults, intact: dict[str, str], fault: str, name: str
) -> None:
    status, verdicts, err = faults.outcome(fault, name)
    verdicts = dict(verdicts)
    cases = list(intact)
    untried = cases[cases.index(name) + 1 :]
    assert status == 3
    assert f"/: the server stopped answering during case {name} (connection " in err
    assert (f"so {len(untried)} cases were not tried" in err) == bool(untried)
    assert err.endswith(f"; start it again, and look at --only {name} -v\n")
    assert err.count("\n") == 1
    assert list(verdicts) == cases[: cases.index(name) + 1]
    unclear = ("unclear", f"the server stopped answering during case {name}")
    assert verdicts.pop(name) == unclear
    for case, verdict in verdicts.items():
        if verdict == unclear:
            assert re.search(rf", while .*\b{case}\b.* waited for an answer, ", err), err
        else:
            assert verdict[0] == intact[case], case


@pytest.mark.parametrize(("fault", "name"), RESTARTED)
def test_a_server_that_crashes_in_a_case_and_restarts_is_reported(
    faults: Faults, intact: dict[str, str], fault: str, name: str
) -> None:
    status, verdicts, err = faults.outcome(fault, name, is_restarted=True)
    verdicts = dict(verdicts)
    assert len(faults.servers[fault, name, True].processes) == (3 if fault == "crash" else 1)
    assert (status, err) == (1, "")
    message = "the server stopped answering, and did so again when this case was tried alone"
    assert verdicts.pop(name) == ("bad", message)
    assert {case: verdict for case, (verdict, _) in verdicts.items()} | {name: "bad"} == {**intact, name: "bad"}


def test_a_server_that_disconnects_idle_clients_has_not_crashed(forker: Forker, intact: dict[str, str]) -> None:
    with faulty(forker, f"idle:{0.5 * pace()}") as server:  # more than a case takes, and less than all of them
        verdicts = run_cases(server.port)
    assert verdicts == intact


def test_a_server_that_leaks_connections_ends_the_run(faults: Faults) -> None:
    status, verdicts, err = faults.outcome("leak")
    assert status == 3
    assert 10 < len(verdicts) < len(CASES)
    assert "the server stopped answering during case " in err
