"""The page on ``rawws connect``: its conversation in a terminal, and its pipes."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from tests.cli.test_connect_command import Terminal
from tests.forked import Forker
from tests.manual import block, blocks, commands, page
from tests.manual_howto.walk import Shown
from tests.serving.machine import PATIENCE_S
from tests.serving.programs import StartProgram

PAGE = page("howto/connect")


def test_the_conversation_in_a_terminal_is_the_one_shown(
    start_program: StartProgram, forker: Forker, tmp_path: Path
) -> None:
    session = block(PAGE, "console", "\n> ")
    command, shown = next(each for each in commands(session) if each[0].startswith("rawws connect "))
    assert command == "rawws connect localhost:8080/room"
    program = start_program()
    terminal = Terminal(forker, tmp_path, f"localhost:{program.port}/room")
    try:
        for line in shown.splitlines():
            if line.startswith("> "):
                terminal.type(line.removeprefix("> ") + "\r")
            elif pong := re.fullmatch(r"(pong in )\d+\.\d( ms)", line):
                terminal.wait_for(pong[1])
                terminal.wait_for(pong[2])
            else:
                # The terminal is narrower than the line, so only its beginning is in one piece.
                terminal.wait_for(line.replace("8080", str(program.port))[:70])
    finally:
        terminal.end()


def test_the_pipes_write_what_is_shown(start_program: StartProgram) -> None:
    program = start_program()
    sessions = [session.text for session in blocks(PAGE, "console") if " | rawws connect " in session.text]
    assert len(sessions) == 2
    for session in sessions:
        ((command, shown),) = commands(session)
        real = command.replace(":8080", f":{program.port}").replace("rawws ", f"{sys.executable} -m rawws ")
        ran = subprocess.run(
            ["bash", "-c", real],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=PATIENCE_S,
            check=False,
        )
        assert not Shown().compare(shown.splitlines(), ran.stdout.splitlines()), ran.stdout
