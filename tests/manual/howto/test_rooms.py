"""The page about the ways to read and write a room."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.manual import page
from tests.manual.howto.walk import Walk
from tests.redis_server import free_port
from tests.serving.machine import PATIENCE_S, need


def test_the_page_works_step_by_step(walk: Walk) -> None:
    walk.follow("howto/rooms")


def test_the_sms_service_is_killed_as_shown(tmp_path: Path) -> None:
    need(shutil.which("curl"), "curl")
    consoles = re.findall(r"```console\n(.*?)```", page("howto/rooms"), re.DOTALL)
    (lines,) = (block.splitlines() for block in consoles if "kill -9" in block)
    port = str(free_port())
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
