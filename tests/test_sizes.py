"""The sizes of the package's files and functions: what is too long to be read at once is several things."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "rawws"
MAX_FILE_LINES, MAX_FUNCTION_LINES = 500, 60
SOURCES = sorted(
    path
    for suffix in ("py", "js", "css", "html")
    for path in PACKAGE.rglob(f"*.{suffix}")
    if "docs" not in path.relative_to(PACKAGE).parts
)
MODULES = [path for path in SOURCES if path.suffix == ".py"]


class Longer(NamedTuple):
    """The lines that a function has at most, and the reason why it is not divided."""

    lines: int
    reason: str


# No function comes in here because it has grown. With its signature and its docstring each is one unit for its reader.
LONGER = {
    "rawws/client/connect.py:connect": Longer(75, "each keyword has a line, and an entry of the docstring"),
    "rawws/server/attach.py:attach": Longer(71, "each keyword has a line, and is passed on by its name"),
    "rawws/server/serve.py:serve": Longer(161, "each keyword has a line, an entry of the docstring, and its one use"),
    "rawws/hub/hub.py:Hub.__init__": Longer(77, "each keyword has a line, and is checked and kept by its name"),
    "rawws/wire/fast_reader.py:FastReader.read": Longer(91, "a profile showed a busy server to spend its time there"),
}


def functions_of(source: str) -> Iterator[tuple[str, int]]:
    """Yield the qualified name of each function in a module, and its lines without decorators."""

    def visit(node: ast.AST, prefix: str) -> Iterator[tuple[str, int]]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
                yield f"{prefix}{child.name}", (child.end_lineno or child.lineno) - child.lineno + 1
                yield from visit(child, f"{prefix}{child.name}.")
            else:
                yield from visit(child, f"{prefix}{child.name}." if isinstance(child, ast.ClassDef) else prefix)

    yield from visit(ast.parse(source), "")


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def test_there_are_files_to_measure() -> None:
    assert len(MODULES) > 200
    assert {path.suffix for path in SOURCES} == {".py", ".js", ".css", ".html"}


def test_no_file_has_more_lines_than_a_file_may_have() -> None:
    lines = {relative(path): len(path.read_text("utf-8").splitlines()) for path in SOURCES}
    assert {name: count for name, count in lines.items() if count > MAX_FILE_LINES} == {}


def test_no_function_has_more_lines_than_a_function_may_have_but_those_with_a_reason() -> None:
    found = {
        f"{relative(path)}:{name}": lines for path in MODULES for name, lines in functions_of(path.read_text("utf-8"))
    }
    long = {name: lines for name, lines in found.items() if lines > MAX_FUNCTION_LINES}
    assert {name: lines for name, lines in long.items() if name not in LONGER or lines > LONGER[name].lines} == {}
    assert LONGER.keys() - long.keys() == set(), "these are short by now, or have another name"


@pytest.mark.parametrize(
    ("source", "functions"),
    [
        ("def f():\n    pass\n", {"f": 2}),
        ("class C:\n    @property\n    async def f(\n        self,\n    ):\n        pass\n", {"C.f": 4}),
        ("def f():\n    def g():\n        pass\n\n    return g\n", {"f": 5, "f.g": 2}),
        ("if True:\n    def f(): pass\n", {"f": 1}),
    ],
)
def test_a_function_is_measured_wherever_it_stands(source: str, functions: dict[str, int]) -> None:
    assert dict(functions_of(source)) == functions
