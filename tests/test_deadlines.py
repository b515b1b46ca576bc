"""Tests don't depend on how fast the machine is.

A deadline against hanging is ``PATIENCE_S`` of ``tests/serving/machine.py``, and no test asks a clock to have counted
less than a number: a slow disk, or a core that others use, would fail it. Nor does a token end a number of seconds
after its test module is imported, since the test may run at the end of a long run. Under a mock clock all are free.
"""

from __future__ import annotations

import ast
import re
from itertools import pairwise
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parent
MOCK_CLOCKS = {"autojump_clock", "mock_clock"}
CLOCKS = {"monotonic", "perf_counter", "current_time"}  # not those of the processor: process_time, thread_time
# Calls that wait for as many seconds as their first argument says.
WAITS = {"fail_after", "wait", "join", "settimeout", "result", "wait_for_end"}
# Calls whose ``timeout`` is what is tested.
OURS = {"publish", "publish_async"}

DEADLINE = "a deadline that is a number: use PATIENCE_S"
CLOCK = "a bound on a clock: wait for an event, make the other outcome last for ever, or measure the processor's time"

TOKEN = "the end of a token: use FOR_THIS_RUN_S"


def name_of(call: ast.Call) -> str:
    function = call.func
    return function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")


def is_number(node: ast.AST) -> bool:
    return isinstance(node, ast.Constant) and type(node.value) in (int, float)


def is_mocked(function: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    """Return whether a test or fixture runs on a mock clock, by an argument or by ``usefixtures``."""
    arguments = function.args
    names = {each.arg for each in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)}
    for decorator in function.decorator_list:
        names |= {str(each.value) for each in ast.walk(decorator) if isinstance(each, ast.Constant)}
    return bool(names & MOCK_CLOCKS)


def measures(node: ast.AST) -> bool:
    """Return whether it is the time since something: a difference of clocks."""
    return isinstance(node, ast.BinOp) and any(
        isinstance(each, ast.Call) and name_of(each) in CLOCKS for each in ast.walk(node)
    )


def bounds_a_clock(compared: ast.Compare) -> bool:
    """Return whether the time since something is to be less than something else."""
    for how, (left, right) in zip(compared.ops, pairwise((compared.left, *compared.comparators)), strict=True):
        if isinstance(how, (ast.Lt, ast.LtE)) and measures(left):
            return True
        if isinstance(how, (ast.Gt, ast.GtE)) and measures(right):
            return True
    return False


class Judge(ast.NodeVisitor):
    """Finds the lines of a test module that depend on the machine's speed."""

    def __init__(self) -> None:
        self.found: list[tuple[int, str]] = []
        self._is_mocked = False
        self._awaited: set[int] = set()

    def visit_FunctionDef(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        before = self._is_mocked
        self._is_mocked = before or is_mocked(node)
        self.generic_visit(node)
        self._is_mocked = before

    def visit_AsyncFunctionDef(self, node: ast.AsyncFunctionDef) -> None:
        self.visit_FunctionDef(node)

    def visit_Await(self, node: ast.Await) -> None:
        self._awaited.add(id(node.value))  # such a call has no argument for the time
        self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> None:
        waits = name_of(node) in WAITS and id(node) not in self._awaited and is_number((*node.args, node)[0])
        has_timeout = any(each.arg == "timeout" and is_number(each.value) for each in node.keywords)
        if (waits or (has_timeout and name_of(node) not in OURS)) and not self._is_mocked:
            self.found.append((node.lineno, DEADLINE))
        self.generic_visit(node)

    def visit_BinOp(self, node: ast.BinOp) -> None:
        is_sum = isinstance(node.op, ast.Add) and ast.unparse(node.left) == "time.time()" and is_number(node.right)
        if is_sum and not self._is_mocked:
            self.found.append((node.lineno, TOKEN))
        self.generic_visit(node)

    def visit_Assert(self, node: ast.Assert) -> None:
        compared = [each for each in ast.walk(node.test) if isinstance(each, ast.Compare)]
        if any(bounds_a_clock(each) for each in compared) and not self._is_mocked:
            self.found.append((node.lineno, CLOCK))
        self.generic_visit(node)


# A module without this has no such line, which is found sooner than by its tree.
MAY_DEPEND = re.compile(rf"\b(?:{'|'.join(WAITS)})\(\s*[\d.]|\btimeout=[\d.]|{'|'.join(CLOCKS)}|time\.time\(\) \+")


def judge(source: str) -> list[tuple[int, str]]:
    if not MAY_DEPEND.search(source):
        return []
    judge = Judge()
    judge.visit(ast.parse(source))
    return judge.found


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("with trio.fail_after(10): pass", [(1, DEADLINE)]),
        ("with trio.fail_after(PATIENCE_S): pass", []),
        ("subprocess.run(['x'], timeout=5)", [(1, DEADLINE)]),
        ("subprocess.run(['x'], timeout=2 * PATIENCE_S)", []),
        ("rawws.publish(url, timeout=0.1)", []),
        ("assert over.wait(2.5)", [(1, DEADLINE)]),
        ("thread.join()\n' '.join(words)", []),
        ("async def f():\n  assert await taker.wait(3)", []),
        ("assert time.monotonic() - began < 3", [(1, CLOCK)]),
        ("assert 0.1 <= trio.current_time() - began < 3", [(1, CLOCK)]),
        ("assert 3 > (time.perf_counter() - began) / 2", [(1, CLOCK)]),
        ("assert time.monotonic() - began >= 3", []),
        ("assert time.monotonic() < end", []),
        ("assert time.process_time() - began < 3", []),
        ("exp = time.time() + 600", [(1, TOKEN)]),
        ("exp = time.time() - 600", []),
        ("exp = time.time() + FOR_THIS_RUN_S", []),
        ("def test(autojump_clock):\n  with trio.fail_after(3):\n    assert trio.current_time() - began < 3", []),
        ("@pytest.mark.usefixtures('mock_clock')\nasync def test(*, a):\n  with trio.fail_after(3): pass", []),
        ("def test(mock_clock): pass\ndef other():\n  thread.join(1)", [(3, DEADLINE)]),
    ],
)
def test_lines_that_depend_on_the_machines_speed_are_found(source: str, found: list[tuple[int, str]]) -> None:
    assert judge(source) == found


def test_no_test_depends_on_the_machines_speed() -> None:
    modules = [each for each in TESTS.rglob("*.py") if each.parent.name != "autobahn"]
    lines = [
        f"{module.relative_to(TESTS.parent)}:{line}: {what}"
        for module in sorted(modules)
        for line, what in judge(module.read_text("utf-8"))
    ]
    assert lines == []
