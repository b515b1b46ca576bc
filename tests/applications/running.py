"""The projects of this folder: copies of them, and clients for the program that serves one."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from websockets.sync.client import ClientConnection, connect

from tests.serving.machine import PATIENCE_S, need
from tests.serving.programs import Program

FOLDER = Path(__file__).parent


def need_packages(*names: str) -> None:
    for name in names:
        need(find_spec(name), f"{name} (pip install {name})")


def copy_of(name: str, directory: Path) -> Path:
    """Return the folder of a copy of a project, in which it may keep its files."""
    return shutil.copytree(FOLDER / name, directory / name, ignore=shutil.ignore_patterns("__pycache__"))


def run_python(folder: Path, *arguments: str) -> str:
    """Run one of a project's own commands, and return its output."""
    environment = {**os.environ, "PYTHONPATH": str(folder)}
    command = [sys.executable, *arguments]
    ran = subprocess.run(
        command, cwd=folder, env=environment, check=True, capture_output=True, text=True, timeout=PATIENCE_S
    )
    return ran.stdout


def dial(program: Program, path: str, **options: Any) -> ClientConnection:
    """Return a WebSocket of the package websockets, from a page of the program's own site."""
    options = {"origin": f"http://localhost:{program.port}", "open_timeout": PATIENCE_S, **options}
    websocket: ClientConnection = connect(f"ws://localhost:{program.port}{path}", proxy=None, **options)
    return websocket


def stop(program: Program) -> list[str]:
    """Stop the program in order, and return the lines of its log that would alert an operator."""
    program.signal(signal.SIGTERM)
    assert program.wait() == 0
    alarms = ("WARNING", "ERROR", "CRITICAL", "Traceback", "Warning:")
    return [line for line in program.lines if any(alarm in line for alarm in alarms)]
