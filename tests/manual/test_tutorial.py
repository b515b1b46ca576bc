"""The tutorial, followed step by step."""

from __future__ import annotations

import os
import queue
import re
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.manual import block, blocks, commands, page
from tests.manual.howto.walk import Shown, Walk
from tests.redis_server import free_port
from tests.serving.machine import PATIENCE_S, need
from tests.serving.programs import Lines, StartProgram, wait_listening_at

# The handshake

HANDSHAKE = page("tutorial/handshake")
FIRST_SERVER = page("tutorial/first-server")


def check(command: str, output: str, shown: Shown | None = None) -> None:
    """Run a command, and compare its output with the output shown."""
    written = run(command)
    missing = (shown or Shown()).compare(output.splitlines(), written)
    assert not missing, "\n".join([*written, f"-- not as shown: {missing}"])


def run(command: str) -> list[str]:
    """Return the lines that a command writes."""
    need(shutil.which(command.split()[0]) or command.startswith("rawws"), command.split()[0])
    real = command.replace("curl ", "curl -s ").replace("rawws ", f"{sys.executable} -m rawws ")
    ran = subprocess.run(
        ["bash", "-c", real],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=PATIENCE_S,
        env=os.environ | {"no_proxy": "*"},
        check=False,
    )
    return ran.stdout.splitlines()


def test_a_request_for_another_version_is_answered_as_shown(start_program: StartProgram) -> None:
    ((command, shown),) = commands(block(HANDSHAKE, "console", "Version: 12").replace("\\\n", ""))
    check(command.replace("localhost:8080", start_program().address), shown)


def test_the_accept_value_is_computed_as_shown() -> None:
    need(shutil.which("openssl"), "openssl")
    ((command, shown),) = commands(block(HANDSHAKE, "console", "openssl"))
    check(command, shown)


def test_a_server_that_repeats_an_answer_is_found_out(tmp_path: Path) -> None:
    port = str(free_port())
    (tmp_path / "parrot.py").write_text(block(HANDSHAKE, "python", "# parrot.py").replace("8081", port))
    (start, _), (connect, shown) = commands(block(HANDSHAKE, "console", "parrot.py").replace("8081", port))
    assert start == "python parrot.py &"
    with subprocess.Popen([sys.executable, "parrot.py"], cwd=tmp_path) as parrot:
        try:
            while "Connection refused" in "".join(written := run(connect)):
                assert parrot.poll() is None
            assert not Shown().compare(shown.splitlines(), written), written
        finally:
            parrot.kill()


# Frames

FRAMES = page("tutorial/frames")
PYTHON = [each.text for each in blocks(FRAMES, "python")]


@pytest.mark.parametrize("index", range(len(PYTHON)))
def test_the_bytes_are_computed_as_shown(index: int, capsys: pytest.CaptureFixture[str]) -> None:
    exec(PYTHON[index], {})
    after = FRAMES.partition(PYTHON[index])[2]
    assert after.startswith(f"```\n\n```text\n{capsys.readouterr().out}```")


# A room


class Person:
    """A terminal of the page in which ``rawws connect`` runs, and the lines that are still to come there."""

    def __init__(self, text: str) -> None:
        command, _, *lines = text.splitlines()
        self.lines = [line for line in lines if line != "…"]
        arguments = shlex.split(command.removeprefix("$ rawws "))
        self._process = subprocess.Popen(
            [sys.executable, "-u", "-m", "rawws", *arguments, "-w", "-1"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout is not None
        self._received = Lines(self._process.stdout)

    def take_turn(self, shown: Shown) -> None:
        """Type or receive the next line, if there is one."""
        if not self.lines:
            return
        line = self.lines.pop(0)
        if line.startswith("> "):
            assert self._process.stdin is not None
            self._process.stdin.write(line.removeprefix("> ") + "\n")
            self._process.stdin.flush()
        else:
            self.expect(line[2:], shown)

    def expect(self, line: str, shown: Shown) -> None:
        """Receive lines until this one comes."""
        while True:
            try:
                received = self._received.next()
            except queue.Empty:
                pytest.fail(f"{line!r} did not come")
            assert received is not None, f"the client has ended before {line!r} came"
            if shown.matches(line, received.rstrip("\n")):
                return

    def leave(self) -> None:
        """Close the connection in order, as Ctrl-C does, and end the client. Harmless twice."""
        self._process.send_signal(signal.SIGINT)
        self._process.wait(PATIENCE_S)
        self._received.close()
        assert self._process.stdin is not None
        self._process.stdin.close()


def test_a_room_works_as_shown(walk: Walk) -> None:
    people: list[Person] = []

    def join(text: str) -> None:
        people.append(Person(text))
        if len(people) == 1:
            return  # the second one answers the first
        while any(person.lines for person in people):
            for person in people:
                person.take_turn(walk.shown)

    try:
        walk.follow("tutorial/room", terminal=join)
        assert len(people) == 3
        for person in people[:2]:
            person.expect("tea is ready", walk.shown)
    finally:
        for person in people:
            person.leave()


# A first server in Python


@pytest.mark.parametrize("step", [1, 2, 3])
def test_each_step_of_the_first_server_works(tmp_path: Path, step: int) -> None:
    """A step has a program, and what is typed in other terminals while the program runs."""
    port = free_port()
    text = re.split(r"^## \d\. ", FIRST_SERVER, flags=re.MULTILINE)[step].replace("8080", str(port))
    (tmp_path / "chat.py").write_text(block(text, "python", "# chat.py"))
    shown, people = Shown(), list[Person]()
    program = subprocess.Popen([sys.executable, "-u", "chat.py"], cwd=tmp_path, stdout=subprocess.PIPE, text=True)
    try:
        wait_listening_at(port)
        for each in blocks(text, "terminal", "console"):
            if each.language == "console":
                for command, output in commands(each.text):
                    check(command, output, shown)
                continue
            people.append(Person(each.text))
            while people[-1].lines:
                people[-1].take_turn(shown)
            people[-1].leave()
        if step == 1:
            assert program.stdout is not None
            assert re.fullmatch(r"#\d+: .+\n", program.stdout.readline())
    finally:
        for person in people:
            person.leave()
        program.kill()
        program.communicate()
