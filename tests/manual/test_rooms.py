"""The manual's commands and programs for rooms, run as they are."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.browser import launch, need_chromium
from tests.manual import page
from tests.serving.machine import PATIENCE_S, need
from tests.serving.programs import StartProgram

SECTION = page("howto/rooms")


def curl(line: str, address: str) -> Any:
    need(shutil.which("curl"), "curl")
    arguments = shlex.split(line.replace("localhost:8080", address))
    return json.loads(subprocess.check_output([*arguments, "-s"], timeout=PATIENCE_S))


def test_the_console_lines_work(start_program: StartProgram) -> None:
    (start, publish, published, ask, answer) = re.findall(r"```console\n(.*?)```", SECTION, re.DOTALL)[0].splitlines()
    program = start_program(*shlex.split(start.removeprefix("$ rawws ")))
    (shown_id,) = set(re.findall(r'"id":"([^"]+)"', published))
    answered = curl(publish.removeprefix("$ "), program.address)
    assert answered == json.loads(published.replace(shown_id, answered["id"]))
    assert curl(ask.removeprefix("$ "), program.address) == json.loads(answer.replace(shown_id, answered["id"]))


def test_the_lines_in_the_table_work(start_program: StartProgram) -> None:
    program = start_program("--history", "10")
    lines = re.findall(r"`(curl [^`]+)`", SECTION)
    assert len(lines) == 4
    published = curl(next(line for line in lines if " -d " in line), program.address)
    poll = next(line for line in lines if "since=" in line)
    polled = curl(re.sub(r"since=[^&]+", "since=", poll).replace("wait=30", "wait=0"), program.address)
    assert polled == {"messages": [], "next": published["id"], "gap": None}
    assert curl(next(line for line in lines if "?peers" in line), program.address) == {"peers": 0}
    stream = next(line for line in lines if "event-stream" in line)
    arguments = shlex.split(stream.replace("localhost:8080", program.address))
    with subprocess.Popen([*arguments, "-s"], stdout=subprocess.PIPE, text=True) as reading:
        program.wait_for_line("joined room /room/x")
        assert reading.stdout is not None
        received = [reading.stdout.readline().strip() for _ in range(3)]
        reading.kill()
    assert received == ["retry: 2000", f"id: {published['id']}", ""]


def test_the_sms_service_is_killed_as_shown(tmp_path: Path) -> None:
    need(shutil.which("curl"), "curl")
    (lines,) = (
        block.splitlines() for block in re.findall(r"```console\n(.*?)```", SECTION, re.DOTALL) if "kill -9" in block
    )
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    programs: list[subprocess.Popen[str]] = []
    written: list[str] = []

    def next_line() -> str:
        stdout = programs[-1].stdout
        assert stdout is not None
        return str(stdout.readline().rstrip("\n"))

    def wait_for_note(last_id: str) -> None:
        """The SMS service notes a message after its SMS."""
        state = tmp_path / "sms.state"
        for _ in range(int(PATIENCE_S * 100)):
            if state.exists() and state.read_text() == last_id:
                return
            time.sleep(0.01)
        pytest.fail(f"the SMS service has not noted {last_id} within {PATIENCE_S} s")

    try:
        for line in lines:
            if not line.startswith("$ "):  # output of the SMS service, or of curl
                if line.startswith("SMS"):
                    written.append(next_line())
                continue
            command = shlex.split(line.removeprefix("$ ").removesuffix(" &").replace("8080", port))
            if command[0] == "python":
                command = [sys.executable, "-u", *command[1:], "--port", port]
                programs.append(subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=tmp_path))
                if "server" in command:
                    assert next_line().startswith("listening")
            elif command[0] == "curl":
                written.append(subprocess.check_output([*command, "-s"], text=True, timeout=PATIENCE_S).strip())
            else:
                assert command == ["kill", "-9", "%2"]
                wait_for_note(written[0])
                programs[1].kill()
        wait_for_note(written[-2])  # the position is written after the last SMS
        assert [path.name for path in tmp_path.iterdir()] == ["sms.state"]  # only the requested file
    finally:
        for program in programs:
            program.kill()
            program.communicate(timeout=PATIENCE_S)
    epoch = written[0].partition("-")[0]
    assert written == [re.sub(r"^[0-9a-f]{8}-", f"{epoch}-", line) for line in lines if not line.startswith("$ ")]


def test_a_dozen_lines_of_javascript_miss_nothing(start_program: StartProgram) -> None:
    need_chromium()
    from playwright.sync_api import sync_playwright

    (script,) = re.findall(r"```js\n(.*?)```", SECTION, re.DOTALL)
    assert len(script.splitlines()) <= 15
    program = start_program("--history", "100", "--hello", "")
    url = f"http://{program.address}/room/x"
    with sync_playwright() as playwright:
        page = launch(playwright).new_page()
        page.goto(f"http://{program.address}/healthz")
        logged: list[str] = []
        page.on("console", lambda message: logged.append(message.text))
        page.on("pageerror", lambda error: logged.append(str(error)))

        def publish(message: str, kind: str = "text/plain") -> None:
            httpx.post(url, content=message, headers={"Content-Type": kind}, trust_env=False).raise_for_status()

        def wait_for(count: int) -> None:
            for _ in range(int(PATIENCE_S * 100)):
                if len(logged) >= count:
                    return
                page.wait_for_timeout(10)

        page.evaluate(
            # The test ends the connection from outside.
            "() => {"
            "window.WebSocket = class extends WebSocket { constructor(...a) { super(...a); window.last = this } }"
            "}"
        )
        page.evaluate(f"() => {{ {script.replace('localhost:8080', program.address)} }}")
        program.wait_for_line("joined room /room/x")
        publish("one")
        wait_for(1)
        page.evaluate("last.close()")
        program.wait_for_line("closed by the client")
        publish("two\nlines")
        program.wait_for_line("joined room /room/x")
        publish("a binary message", "application/octet-stream")
        publish("three")
        wait_for(3)
        assert logged == ["one", "two\nlines", "three"]
