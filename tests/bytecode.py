"""Bytecode is compiled once, and not by each process of a run for itself.

pytest rewrites the assertions of a test module, which takes longer than to run most of them, and writes the outcome
where Python writes its bytecode. A process that would import the modules in the same order as the others, at the same
time, would find nothing there: in a fresh clone each would compile them all.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
from collections.abc import Iterable, Sequence
from itertools import accumulate
from pathlib import Path

import pytest


def write_it() -> None:
    """Write bytecode next to the sources, even if Python is set not to, in this process and those that it starts."""
    sys.dont_write_bytecode = False
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)


def turn(sizes: Sequence[int], process: int, processes: int) -> int:
    """Return the index of the first module that a process imports: each has the same number of bytes to the next."""
    share = sum(sizes) * process // processes
    return sum(1 for end in accumulate(sizes) if end <= share) % max(1, len(sizes))


def import_in_turn(config: pytest.Config, process: int, processes: int) -> None:
    """Import the test modules, each process from another one on, so that it compiles those that no other has."""
    roots = [config.invocation_params.dir / arg.partition("::")[0] for arg in config.args]
    modules = sorted({file for root in roots for file in _test_modules(root)})
    first = turn([module.stat().st_size for module in modules], process, processes)
    for module in [*modules[first:], *modules[:first]]:
        # An error is for the collection, which will import the module again and report it.
        with contextlib.suppress(Exception, pytest.skip.Exception):
            importlib.import_module(_name(module.relative_to(config.rootpath)))


def _test_modules(root: Path) -> Iterable[Path]:
    """Return those of a folder or file. One that doesn't exist has none: the collection will say so."""
    if root.is_dir():
        return root.rglob("test_*.py")
    return [root] if root.suffix == ".py" and root.is_file() else []


def _name(module: Path) -> str:
    return ".".join(module.with_suffix("").parts)
