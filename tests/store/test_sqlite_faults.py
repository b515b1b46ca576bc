"""The disk fails under a store: at a call, in a program of its own (faulty.py).

A thorough run has one write in five fail, and the next run others. With RAWWS_TURN=all each one fails once.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.effort import steps
from tests.serving.machine import need

HERE = Path(__file__).parent
FAULTS = [
    "pwrite EIO 1",
    "pwrite short 1",
    "pwrite,write ENOSPC 1000000",
    "pwrite,write EDQUOT 1000000",
    "pwrite,write ENOSPC 3",
    "fsync EIO 1",
    "fsync EIO 1000000",
    "ftruncate EIO 1",
    "open EIO 1",
    "open ENOSPC 1",
    "unlink EIO 1",
    "rename EIO 1",
]


@pytest.fixture(scope="module")
def shim(tmp_path_factory: pytest.TempPathFactory) -> Path:
    need(shutil.which("gcc"), "gcc")
    library = tmp_path_factory.mktemp("faults") / "faults.so"
    subprocess.run(["gcc", "-shared", "-fPIC", "-O1", "-o", library, HERE / "faults.c", "-ldl"], check=True)
    return library


def run(shim: Path, quick_path: Path, fault: str, mode: str, step: int, first: int = 1) -> dict[str, int]:
    """Have each STEP-th call fail, beginning with the FIRST, and return how many runs have said what."""
    places = [str(first), str(step)]
    command = [sys.executable, "-m", "tests.store.faulty", str(quick_path), *fault.split(), mode, *places]
    ran = subprocess.run(
        command, env={**os.environ, "LD_PRELOAD": str(shim)}, capture_output=True, text=True, check=False
    )
    assert (ran.returncode, ran.stderr) == (0, ""), ran.stderr
    *troubles, said = ran.stdout.splitlines()
    assert troubles == []
    return {name: int(count) for name, _, count in (each.partition("=") for each in said.split())}


def test_a_failed_fsync_ends_all_promises(shim: Path, quick_path: Path) -> None:
    said = run(shim, quick_path, "fsync EIO 1", "always", 3)
    assert said["broken"] > 3
    assert said["id"] > 5


def test_a_full_disk_is_told_and_what_was_told_before_is_there(shim: Path, quick_path: Path) -> None:
    said = run(shim, quick_path, "pwrite,write ENOSPC 1000000", "interval", 29)
    assert said["full"] > 3
    assert "broken" not in said


def test_a_quota_that_is_used_up_is_told_as_a_full_disk(shim: Path, quick_path: Path) -> None:
    said = run(shim, quick_path, "pwrite,write EDQUOT 1000000", "always", 29)
    assert said["full"] > 3


def test_a_write_that_fails_once_is_tried_again(shim: Path, quick_path: Path) -> None:
    said = run(shim, quick_path, "pwrite EIO 1", "never", 29)
    assert said["error"] > 3
    assert "broken" not in said


def test_a_short_write_is_completed(shim: Path, quick_path: Path) -> None:
    said = run(shim, quick_path, "pwrite short 1", "always", 29)
    assert set(said) <= {"runs", "id", "hits", "refused"}


@pytest.mark.patience(600)
@pytest.mark.thorough
@pytest.mark.parametrize("mode", ["always", "interval"])
@pytest.mark.parametrize("fault", FAULTS)
def test_any_call_may_fail(shim: Path, quick_path: Path, fault: str, mode: str) -> None:
    first, step = steps(5 if fault.startswith("pwrite") else 1)  # there are only a few of the others
    said = run(shim, quick_path, fault, mode, step, first + 1)
    assert said["runs"] > 1 or fault.startswith("rename")
