"""pytest's command line: which tests a run has, and what it says of a path that isn't there."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import tests.conftest
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
def test_a_path_that_does_not_exist_is_named_by_pytests_own_sentence(given: str, sentence: str) -> None:
    command = [sys.executable, "-m", "pytest", "-n", "1", "-p", "no:cacheprovider", given]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    assert ran.stderr.startswith(sentence)
    assert "INTERNALERROR" not in ran.stdout + ran.stderr
    assert ran.returncode == pytest.ExitCode.USAGE_ERROR


SOURCES = pytest.Config.ArgsSource


@pytest.mark.parametrize(
    ("given", "source", "chosen"),
    [
        ("", SOURCES.TESTPATHS, "not thorough"),
        ("", SOURCES.ARGS, ""),
        ("thorough", SOURCES.TESTPATHS, "thorough"),
        ("not hypothesis", SOURCES.ARGS, "not hypothesis"),
    ],
)
def test_a_run_of_all_leaves_the_thorough_tests_out(
    monkeypatch: pytest.MonkeyPatch, given: str, source: pytest.Config.ArgsSource, chosen: str
) -> None:
    monkeypatch.setattr(tests.costs, "pytest_configure", lambda _: None)
    config: Any = SimpleNamespace(option=SimpleNamespace(markexpr=given), args_source=source, stash={})
    tests.conftest.pytest_configure(config)
    os.close(config.stash[tests.conftest.STANDARD_ERROR])
    assert config.option.markexpr == chosen


def test_ci_runs_both_the_suite_and_what_it_leaves_out() -> None:
    """The two choices leave no test out: "not thorough" is that of ``pytest`` alone."""
    script = (ROOT / ".ci" / "run").read_text("utf-8")
    assert re.search(r"^pytest$", script, re.MULTILINE)
    assert re.search(r'^pytest .*-m "thorough or hypothesis"$', script, re.MULTILINE)
