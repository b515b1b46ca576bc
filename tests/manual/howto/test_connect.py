"""The page about ``rawws connect``, in a pipe and in a terminal."""

from __future__ import annotations

import re
from pathlib import Path

from tests.cli.test_connect_command import Terminal
from tests.forked import Forker
from tests.manual.howto.walk import Walk


def test_the_page_works_step_by_step(walk: Walk, forker: Forker, tmp_path: Path) -> None:
    sessions: list[str] = []
    walk.follow("howto/connect", sh=lambda _: None, terminal=sessions.append)
    (session,) = sessions
    command, *lines = session.splitlines()
    terminal = Terminal(forker, tmp_path, command.removeprefix("$ rawws connect "))
    try:
        for line in lines:
            if line.startswith("> "):
                terminal.type(line.removeprefix("> ") + "\r")
            else:
                for part in re.split(r"\d+\.\d+", line):
                    terminal.wait_for(part)
    finally:
        terminal.end()
