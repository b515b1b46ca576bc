"""What a developer is told who gives pytest something that isn't there."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.serving.machine import PATIENCE_S

ROOT = Path(__file__).resolve().parent.parent


@pytest.mark.thorough  # it imports all that conftest.py does, in two processes
@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ("tests/test_nothing.py", "ERROR: file or directory not found: tests/test_nothing.py"),
        (f"tests/{Path(__file__).name}::test_nothing", f"ERROR: not found: {__file__}::test_nothing"),
    ],
)
def test_what_does_not_exist_is_named_by_pytests_own_sentence(given: str, sentence: str) -> None:
    command = [sys.executable, "-m", "pytest", "-n", "1", "-p", "no:cacheprovider", given]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    assert ran.stderr.startswith(sentence)
    assert "INTERNALERROR" not in ran.stdout + ran.stderr
    assert ran.returncode == pytest.ExitCode.USAGE_ERROR
