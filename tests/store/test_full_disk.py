"""A disk that is really full: publishers wait, readers live on, and all goes on when there is space."""

from __future__ import annotations

import os
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.serving.machine import PATIENCE_S
from tests.serving.programs import StartProgram

OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def mount(*arguments: str) -> bool:
    return subprocess.run(["mount", *arguments], capture_output=True, check=False).returncode == 0


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if os.geteuid() or not mount("-t", "tmpfs", "-o", "size=1M", "tmpfs", str(folder)):
        pytest.skip("only root may mount a file system")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=False)


def ask(address: str, path: str, data: bytes | None = None) -> tuple[int, bytes, str | None]:
    """Return the status, the body and Retry-After of an answer."""
    request = urllib.request.Request(f"http://{address}{path}", data, {"Content-Type": "application/octet-stream"})
    try:
        with OPENER.open(request, timeout=PATIENCE_S) as answer:
            return answer.status, answer.read(), None
    except urllib.error.HTTPError as error:
        return error.code, error.read(), error.headers["Retry-After"]


@pytest.mark.thorough
def test_a_full_disk(start_program: StartProgram, small_disk: Path) -> None:
    program = start_program("--store", str(small_disk / "rooms.db"), "--history-bytes", "100M", "--metrics")
    accepted = 0
    refused: tuple[int, bytes, str | None] = (0, b"", None)
    while accepted < 100:
        status, *_ = refused = ask(program.address, "/x", bytes(30_000))
        if status != 202:
            break
        accepted += 1
    assert refused[0] == 507, refused
    assert b"no space left for messages" in refused[1]
    assert refused[2]
    program.wait_for_line("nothing can be stored: there is no space")
    status, body, _ = ask(program.address, "/readyz")
    assert (status, b"the disk is full" in body) == (503, True)
    assert b"rawws_store_up 0.0" in ask(program.address, "/metrics")[1]
    assert ask(program.address, "/x?last=1")[1].count(b'"id"') == 1
    assert mount("-o", "remount,size=8M", str(small_disk))
    program.wait_for_line("the store takes messages again")
    assert ask(program.address, "/readyz")[0] == 200
    assert ask(program.address, "/x", b"goes on")[0] == 202
    end = time.monotonic() + PATIENCE_S
    while b"rawws_store_up 1.0" not in ask(program.address, "/metrics")[1]:
        assert time.monotonic() < end
    assert f'-{accepted + 1}"'.encode() in ask(program.address, "/x?last=1")[1]
