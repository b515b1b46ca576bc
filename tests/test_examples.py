"""The examples, run as the programs that they are, with real clients."""

from __future__ import annotations

import importlib.util
import json
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
import trio
from websockets.exceptions import InvalidStatus
from websockets.sync.client import ClientConnection, connect

import rawws
import rawws.examples
from tests.browser import launch, need_chromium
from tests.serving.machine import LOOPBACK, PATIENCE_S, need

FOLDER = Path(rawws.examples.__file__).parent
NAMES = sorted(path.stem for path in FOLDER.glob("*.py") if path.stem != "__init__")

# The output of a server that listens, and of an SMS service that begins or is cut off.
LISTENING = re.compile(r"listening on \w+://localhost:(\d+)")


class Example:
    """A running example: its output, line by line, and its port if it has one."""

    def __init__(self, name: str, *arguments: str, cwd: Path) -> None:
        command = [sys.executable, "-u", "-W", "error", "-m", f"rawws.examples.{name}", *arguments]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=cwd)
        self.lines: list[str] = []

    def next_line(self) -> str:
        assert self.process.stdout is not None
        line = self.process.stdout.readline().rstrip("\n")
        assert line, self.process.stderr.read() if self.process.stderr is not None else ""
        self.lines.append(line)
        return line

    def wait_listening(self) -> int:
        while not (found := LISTENING.match(self.next_line())):
            pass
        return int(found[1])

    def end(self) -> None:
        self.process.kill()
        self.process.communicate(timeout=PATIENCE_S)


Run = Callable[..., Example]


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Run]:
    started: list[Example] = []

    def start(name: str, *arguments: str) -> Example:
        started.append(Example(name, *arguments, cwd=tmp_path))
        return started[-1]

    yield start
    for example in started:
        example.end()


def dial(port: int, path: str = "/") -> ClientConnection:
    return connect(f"ws://{LOOPBACK}:{port}{path}", proxy=None)


def ask(port: int, path: str, body: str | None = None) -> httpx.Response:
    with httpx.Client(trust_env=False) as client:
        url = f"http://{LOOPBACK}:{port}{path}"
        return client.get(url) if body is None else client.post(url, content=body)


@pytest.mark.parametrize("name", NAMES)
def test_each_example_is_short_and_listed(name: str) -> None:
    assert len((FOLDER / f"{name}.py").read_text("utf-8").splitlines()) < 100
    assert f"``{name}``" in str(rawws.examples.__doc__)


@pytest.mark.parametrize("name", NAMES)
def test_ctrl_c_ends_it_without_a_traceback(run: Run, name: str) -> None:
    need(name != "existing_app" or importlib.util.find_spec("starlette"), "Starlette")
    example = run(name, *(["server"] if name == "payments" else []), "--port", "0")
    example.wait_listening()
    example.process.send_signal(signal.SIGINT)
    _, err = example.process.communicate(timeout=PATIENCE_S)
    assert (example.process.returncode, "Traceback" in err) == (0, False), err


def test_echo_sends_each_message_back(run: Run) -> None:
    with dial(run("echo", "--port", "0").wait_listening()) as ws:
        for message in ("text", b"binary"):
            ws.send(message)
            assert ws.recv(PATIENCE_S) == message


def test_chat_has_rooms_and_names(run: Run) -> None:
    port = run("chat", "--port", "0").wait_listening()
    with dial(port, "/lounge?name=alice") as alice, dial(port, "/other?name=carol") as carol:
        assert json.loads(alice.recv(PATIENCE_S)) == {"name": "alice", "text": "came in"}
        with dial(port, "/lounge?name=bob") as bob:
            bob.send("hello")
            for text in ("came in", "says: hello"):
                assert json.loads(alice.recv(PATIENCE_S)) == {"name": "bob", "text": text}
        assert json.loads(alice.recv(PATIENCE_S)) == {"name": "bob", "text": "left"}
        assert json.loads(carol.recv(PATIENCE_S))["name"] == "carol"
    with pytest.raises(InvalidStatus, match="401"), dial(port, "/lounge"):
        pass


def test_chat_in_two_tabs_of_a_browser(run: Run) -> None:
    need_chromium()
    from playwright.sync_api import expect, sync_playwright

    port = run("chat", "--port", "0").wait_listening()
    with sync_playwright() as playwright:
        browser = launch(playwright)
        try:
            alice, bob = browser.new_page(), browser.new_page()
            for page, name in ((alice, "alice"), (bob, "bob")):
                page.goto(f"http://localhost:{port}/lounge?name={name}")
                expect(page.get_by_text(f"{name} came in")).to_be_visible(timeout=PATIENCE_S * 1000)
            bob.get_by_role("textbox").fill("<b>hello</b>")
            bob.keyboard.press("Enter")
            expect(alice.get_by_text("bob says: <b>hello</b>")).to_be_visible(timeout=PATIENCE_S * 1000)
        finally:
            browser.close()


async def test_ticker_lets_slow_readers_skip_to_the_newest(run: Run) -> None:
    arguments = ("--port", "0", "--per-second", "300", "--padding", "500000")
    port = await trio.to_thread.run_sync(run("ticker", *arguments).wait_listening)
    slow = socket.create_connection((LOOPBACK, port), PATIENCE_S)
    slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)
    skipped = 0
    async with rawws.connect(f"ws://{LOOPBACK}:{port}/", socket=slow, max_queue=1) as ws:
        number = json.loads(await ws.recv())["number"]
        with trio.fail_after(PATIENCE_S):
            while not skipped:  # the kernel's buffers hold the first few messages, one after the other
                await trio.sleep(0.05)  # a slow reader, in a test about time
                number, before = json.loads(await ws.recv())["number"], number
                assert number > before
                skipped = number - before - 1


def test_payments_survive_the_killing_of_the_sms_service(run: Run, tmp_path: Path) -> None:
    port = run("payments", "server", "--port", "0").wait_listening()

    def start_sms() -> Example:
        return run("payments", "sms", "--port", str(port), "--state", str(tmp_path / "sms.state"))

    def pay(*amounts: int) -> None:
        for amount in amounts:
            assert ask(port, "/payments", f"amount={amount}").status_code == 201

    pay(1, 2)
    sms = start_sms()
    heard = [sms.next_line() for _ in range(2)]
    pay(3)
    heard.append(sms.next_line())
    deadline = time.monotonic() + PATIENCE_S
    while not (tmp_path / "sms.state").read_text().endswith("-3") and time.monotonic() < deadline:
        time.sleep(0.001)  # the service notes the id after the SMS
    sms.process.kill()  # not asked to stop
    pay(4, 5)
    sms = start_sms()
    heard += [sms.next_line() for _ in range(2)]
    pay(6)
    heard.append(sms.next_line())
    assert heard == [f"SMS: 'amount={number}'" for number in range(1, 7)]


def test_the_sms_service_requires_a_state_file_and_writes_no_other(run: Run, tmp_path: Path) -> None:
    sms = run("payments", "sms")
    _, err = sms.process.communicate(timeout=PATIENCE_S)
    assert sms.process.returncode == 2
    assert err.endswith("the SMS service needs --state FILE, such as --state sms.state, to resume after a kill\n")
    assert list(tmp_path.iterdir()) == []


def test_an_existing_app_publishes_into_a_room_next_to_it(run: Run) -> None:
    need(importlib.util.find_spec("starlette"), "Starlette")
    example = run("existing_app", "--port", "0")
    port = example.wait_listening()
    assert example.lines[0] == "the application has started"
    with dial(port, "/room/orders") as ws:
        answer = ask(port, "/orders", "3 apples")
        assert (answer.status_code, answer.json()) == (201, {"order": "3 apples", "told": 1})
        assert ws.recv(PATIENCE_S) == "3 apples"
    assert ask(port, "/").text == "1 orders so far\n"
