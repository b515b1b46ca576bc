"""The folder is the promise: nothing in ``rawws/wire/`` can block, or knows a layer above it."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest

import rawws.wire

MODULES = sorted(Path(rawws.wire.__file__).parent.glob("*.py"))
LIBRARIES = {"h11", "wsproto", "numpy"}  # the last where it is there
OURS = ("rawws.errors", "rawws.limits", "rawws.wire")
IMPURE = {
    *("asyncio", "concurrent", "multiprocessing", "queue", "sched", "select", "selectors", "signal", "socket"),
    *("socketserver", "ssl", "subprocess", "threading", "time", "datetime", "_socket", "_ssl", "_thread"),
}


def imports_of(source: str) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports hide their layer"
            # "from rawws import hub" imports a module, "from rawws.wire import frames" another one.
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def is_allowed(name: str) -> bool:
    top = name.partition(".")[0]
    if top == "rawws":
        return name.startswith(tuple(f"{module}." for module in OURS)) or name in OURS
    return top in LIBRARIES or (top in sys.stdlib_module_names and top not in IMPURE)


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.stem)
def test_a_wire_module_imports_only_what_is_pure(module: Path) -> None:
    assert [name for name in sorted(imports_of(module.read_text("utf-8"))) if not is_allowed(name)] == []


@pytest.mark.parametrize(
    "line",
    ["import trio", "import socket as s", "from time import monotonic", "from rawws import hub", "import rawws.hub"],
)
def test_the_walk_would_notice(line: str) -> None:
    (name,) = imports_of(f"def late():\n    {line}")
    assert not is_allowed(name)
