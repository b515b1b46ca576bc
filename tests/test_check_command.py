"""``rawws check`` against servers that nobody here wrote, against our own, and against one that gets all wrong."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
import trio

import rawws.cli
import rawws.logs
from benchmarks import servers
from benchmarks.servers import Wish
from rawws.checker import Checker
from rawws.wire.cases import BY_NAME, CASES
from rawws.wire.handshake import Accept
from tests.serving import PATIENCE_S, need

Check = Callable[..., tuple[int, list[str]]]


@pytest.fixture(autouse=True)
def own_log(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leaves the log as it is for the tests that follow."""
    monkeypatch.setattr(rawws.logs, "configure", lambda _: None)


@pytest.fixture
def check(capsys: pytest.CaptureFixture[str]) -> Check:
    def run(*arguments: str) -> tuple[int, list[str]]:
        status = rawws.cli.main(["check", *arguments])
        return status, capsys.readouterr().out.splitlines()

    return run


def started(name: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    if "RAWWS_NODE_MODULES" in os.environ:
        monkeypatch.setenv("NODE_PATH", os.environ["RAWWS_NODE_MODULES"])
    server = servers.BY_NAME[name]
    need(server.missing() is None, f"{server.title}, or what it needs ({server.missing()}),")
    with servers.started(server, Wish()) as running:
        yield running.port


@pytest.fixture(params=["rawws", "ws", "websockets", "aiohttp", "uwebsockets"])
def other(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, int]]:
    for port in started(request.param, monkeypatch):
        yield request.param, port


def test_servers_that_people_use(check: Check, other: tuple[str, int]) -> None:
    name, port = other
    status, lines = check("--json", "--timeout", "2", f"ws://127.0.0.1:{port}/")
    results = {each["case"]: each for each in json.loads("\n".join(lines))}
    assert list(results) == [case.name for case in CASES]
    verdicts = {case: each["verdict"] for case, each in results.items()}
    if name == "rawws":
        assert set(verdicts.values()) == {"good"}
        assert status == 0
        return
    # What they make of broken things is theirs to decide, and changes from version to version. But they are good
    # servers: a checker that finds what is legal refused, or can't run a case, is wrong itself.
    told = {case: f"{verdict}: {results[case]['got']}" for case, verdict in verdicts.items() if verdict != "good"}
    assert "unclear" not in verdicts.values(), told
    legal = [case.name for case in CASES if case.rule.startswith(("101", "take it", "a pong", "answer with"))]
    assert len(legal) == 14
    assert {case: told.get(case) for case in legal} == dict.fromkeys(legal)
    assert {verdicts[case] for case in ("rsv2", "opcode-3", "ping-126", "bad-utf-8")} <= {"good", "lax"}
    assert status == ("bad" in verdicts.values())


async def accept_all(stream: trio.SocketStream) -> bool:
    """Answer whatever looks like a request with a 101; False where nothing came."""
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
    """Accepts all, masks its frames, and takes no notice of what it is sent."""
    async with stream:
        if await accept_all(stream):
            await stream.send_all(b"\x81\x82abcd\x09\x0b")
            await trio.sleep_forever()


async def flood(stream: trio.SocketStream) -> None:
    """Sends messages without an end."""
    with contextlib.suppress(trio.BrokenResourceError):
        async with stream:
            if await accept_all(stream):
                while True:
                    await stream.send_all(b"\x81\x01a" * 20_000)


def served(handler: Callable[[trio.SocketStream], Awaitable[None]]) -> Iterator[int]:
    """A server in a thread of its own, since the command runs a loop of its own; yields its port."""
    ports: list[int] = []
    ready = threading.Event()
    stop: list[Callable[[], object]] = []

    async def serve() -> None:
        async with trio.open_nursery() as nursery:
            listeners = await nursery.start(partial(trio.serve_tcp, handler, 0, host="127.0.0.1"))
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
    assert ready.wait(5)
    yield ports[0]
    stop[0]()
    thread.join(5)


@pytest.fixture
def yes_man() -> Iterator[int]:
    yield from served(say_yes)


@pytest.fixture
def flooder() -> Iterator[int]:
    yield from served(flood)


def test_a_server_that_gets_everything_wrong(check: Check, yes_man: int) -> None:
    status, lines = check("--timeout", "0.3", f"ws://127.0.0.1:{yes_man}/")
    assert status == 1
    verdicts = {line.split()[1]: line.split()[0] for line in lines if line[:1] != " "}
    good = {name for name, verdict in verdicts.items() if verdict == "good"}
    assert good == {"handshake", "tokens", "odd-offer"}
    lax = {name for name, verdict in verdicts.items() if verdict == "lax"}
    assert lax == {"two-keys", "length-too-large", "long-form-16", "long-form-64"}
    assert lines[-1] == f"3 good, 4 lax, {len(CASES) - 7} BAD"


def test_one_case_with_its_story(check: Check, yes_man: int) -> None:
    status, lines = check("--only", "unmasked", "-v", "--timeout", "0.3", f"ws://127.0.0.1:{yes_man}/room?a=1")
    assert status == 1
    told = [line.strip() for line in lines]
    assert told[0] == "BAD      unmasked           a frame that is not masked: nothing: the connection stayed open"
    assert told[1] == "RFC 6455 §5.1: fail the connection: a close with 1002, and the end of TCP"
    assert "GET /room?a=1 HTTP/1.1" in told
    assert any(line.endswith("TEXT fin=1 rsv=000 mask=none len=5 'hello'") for line in told)
    assert told[-2:] == ["= the connection is open still", "1 BAD"]


def test_a_server_that_floods_takes_no_longer_than_one_that_is_mute(check: Check, flooder: int) -> None:
    began = time.thread_time()  # not the clock, by which other work on the machine counts too
    status, lines = check("--only", "fragments", "-v", "--timeout", "0.5", f"ws://127.0.0.1:{flooder}/")
    assert time.thread_time() - began < 5  # of reading for 0.5 s at most, and of telling the story
    assert status == (lines[0].split()[0] == "BAD")
    assert lines[0].startswith(("BAD      fragments", "unclear  fragments"))
    assert len(lines) < 5000
    assert lines[-3].endswith(" bytes more came, which are left out here")


async def test_what_was_seen_of_an_answer_is_not_kept_when_it_is_judged(nursery: trio.Nursery) -> None:
    """One of a million small frames would be a gigabyte in sixty cases."""
    (listener,) = await nursery.start(partial(trio.serve_tcp, flood, 0, host="127.0.0.1"))
    result = await Checker(f"ws://127.0.0.1:{listener.socket.getsockname()[1]}/").run_case(BY_NAME["fragments"])
    assert result.answer.raw
    assert not result.answer.seen
    assert "heads and frames, and went on" in result.outcome.got
    nursery.cancel_scope.cancel()


def test_the_cases_can_be_listed(check: Check) -> None:
    status, lines = check("--list")
    assert status == 0
    assert len(lines) == 2 * len(CASES)


@pytest.mark.parametrize("arguments", ["--list", "URL", "--json URL"])
@pytest.mark.parametrize(
    ("redirected", "told"),
    [
        pytest.param(
            *(">/dev/full", "rawws: standard output can't be written: No space left on device\n1\n"),
            marks=pytest.mark.skipif(not Path("/dev/full").exists(), reason="only Linux has a device that is full"),
        ),
        ("| true", "0\n"),
    ],
)
def test_output_that_nobody_reads_or_that_is_full(yes_man: int, arguments: str, redirected: str, told: str) -> None:
    arguments = arguments.replace("URL", f"--only rsv2 --timeout 0.3 ws://127.0.0.1:{yes_man}/")
    program, _, pipe = redirected.partition("|")
    command = f"(sleep 0.1; {sys.executable} -m rawws check {arguments} {program}; echo $? >&2)"
    command += f"|{pipe}" * bool(pipe)
    ran = subprocess.run(["sh", "-c", command], capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    assert (ran.stdout, ran.stderr) == ("", told)


@pytest.mark.parametrize(
    ("arguments", "status", "told"),
    [
        ([], 2, "say which server to check"),
        (["--only", "nothing", "ws://localhost/"], 2, "there is no case 'nothing'"),
        (["http://localhost/"], 2, "http://localhost/"),
        (["ws://127.0.0.1:1/"], 1, "can't connect to 127.0.0.1:1: Connection refused"),
    ],
)
def test_what_can_not_be_done_is_one_sentence(
    capsys: pytest.CaptureFixture[str], arguments: list[str], status: int, told: str
) -> None:
    assert rawws.cli.main(["check", *arguments]) == status
    error = capsys.readouterr().err
    assert error.startswith("rawws: ")
    assert told in error
    assert error.count("\n") == 1
