"""Fixtures of the tests of how-to pages."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.manual.howto.walk import blocks_of
from tests.redis_server import free_port
from tests.serving.machine import PATIENCE_S

# Starts a page's program: run("howto/server", "echo.py").
Run = Callable[[str, str], tuple[subprocess.Popen[str], int]]


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Run]:
    """Start a program of a page, with a free port in place of its own. The port is returned too."""
    started: list[subprocess.Popen[str]] = []
    ports: dict[str, int] = {}

    def start(topic: str, name: str) -> tuple[subprocess.Popen[str], int]:
        (block,) = [block for block in blocks_of(topic) if block.file_name == name]
        port = ports.setdefault("8080", free_port())
        file = tmp_path / name
        file.write_text(block.text.replace("8080", str(port)))
        command = [sys.executable, "-u", "-W", "error", str(file)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        started.append(process)
        return process, port

    yield start
    for process in started:
        process.kill()
        process.communicate(timeout=PATIENCE_S)
