"""The processes of a run compile the test modules together."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests import bytecode


@pytest.mark.parametrize(
    ("sizes", "processes", "turns"),
    [
        ([10] * 6, 1, [0]),
        ([10] * 6, 3, [0, 2, 4]),
        ([10] * 4, 3, [0, 1, 2]),
        ([60, 10, 10, 10, 10, 20], 2, [0, 1]),
        ([10, 100], 2, [0, 1]),
        ([100, 10], 2, [0, 0]),
        ([10], 3, [0, 0, 0]),
        ([], 2, [0, 0]),
    ],
)
def test_each_process_has_as_many_bytes_to_the_next_ones_first_module(
    sizes: list[int], processes: int, turns: list[int]
) -> None:
    assert [bytecode.turn(sizes, process, processes) for process in range(processes)] == turns


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A project with four test modules of one size, of which one can't be imported."""
    folder = tmp_path / "turns"
    folder.mkdir()
    (folder / "__init__.py").touch()
    for name in "abd":
        (folder / f"test_{name}.py").write_text("# " + "x" * 20)
    (folder / "test_c.py").write_text("raise ValueError  #" + "x" * 3)
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    for name in [name for name in sys.modules if name.partition(".")[0] == "turns"]:
        del sys.modules[name]


@pytest.mark.parametrize(
    ("args", "process", "order"),
    [
        (["turns"], 0, "abcd"),
        (["turns"], 1, "cdab"),
        (["turns/test_b.py::test_x", "turns/test_d.py"], 0, "bd"),
    ],
)
def test_a_process_imports_the_given_modules_from_its_own_first_one_on(
    project: Path, monkeypatch: pytest.MonkeyPatch, args: list[str], process: int, order: str
) -> None:
    seen: list[str] = []
    real = importlib.import_module

    def note(name: str) -> Any:
        seen.append(name)
        return real(name)

    monkeypatch.setattr(importlib, "import_module", note)
    config: Any = SimpleNamespace(args=args, rootpath=project, invocation_params=SimpleNamespace(dir=project))
    bytecode.import_in_turn(config, process, 2)
    assert seen == [f"turns.test_{name}" for name in order]
    assert {name for name in seen if name in sys.modules} == {name for name in seen if not name.endswith("_c")}


def test_bytecode_is_written_whatever_the_environment_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    bytecode.write_it()
    assert not sys.dont_write_bytecode
    assert "PYTHONDONTWRITEBYTECODE" not in os.environ
