"""The CPU that each test takes, in the process that runs it and in the programs that it has ended.

The suite is run often, so that its length matters, and a busy machine changes the CPU of a test much less than its
time. A run names each test that takes more than ``DEAR_S`` and is not marked as thorough. ``--costs N`` prints the N
dearest, and the sums by folder.

A fixture that many tests share is counted by itself, and not for the test that happens to be the first or last of them.
"""

from __future__ import annotations

import resource
import time
from collections import defaultdict
from collections.abc import Generator, Iterable, Iterator, Mapping
from typing import Any

import pytest

from tests.forked import Forked

DEAR_S = 2.0  # of a test
SHARE_S = 1.0  # of a folder or fixture: smaller ones are left out
PROPERTY = "cpu_s"  # of a report


def spent_s() -> float:
    """Return the seconds of CPU that this process, and the programs that it has started and that are over, have taken.

    A forked program is no child of this process: Forked counts it.
    """
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime + Forked.spent_s


def dearest_first(costs: Mapping[str, float]) -> list[tuple[str, float]]:
    return sorted(costs.items(), key=lambda each: -each[1])


class Costs:
    """The part of a process that runs tests: it measures them, and adds the CPU of each to its last report."""

    def __init__(self) -> None:
        self.collected_s = 0.0
        self.fixtures_s: defaultdict[str, float] = defaultdict(float)
        self._began_s = 0.0
        self._ending: dict[int, float] = {}

    def pytest_collection_finish(self) -> None:
        self.collected_s = spent_s()

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self) -> Generator[None, object, object]:
        self._began_s = spent_s()
        return (yield)

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(self, fixturedef: pytest.FixtureDef[Any]) -> Generator[None, object, object]:
        if fixturedef.scope == "function":
            return (yield)
        began_s = spent_s()
        try:
            return (yield)
        finally:
            self._set_aside(fixturedef, began_s)
            # Finalizers run in the opposite order: this one before the fixture's own.
            fixturedef.addfinalizer(lambda: self._ending.update({id(fixturedef): spent_s()}))

    def pytest_fixture_post_finalizer(self, fixturedef: pytest.FixtureDef[Any]) -> None:
        if (began_s := self._ending.pop(id(fixturedef), None)) is not None:
            self._set_aside(fixturedef, began_s)

    def _set_aside(self, fixture: pytest.FixtureDef[Any], began_s: float) -> None:
        """Count the time since then for the fixture, and not for the test."""
        taken_s = spent_s() - began_s
        self.fixtures_s[f"{fixture.baseid or 'pytest'}: {fixture.argname}"] += taken_s
        self._began_s += taken_s

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(
        self, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        report = yield
        if call.when == "teardown":
            report.user_properties.append((PROPERTY, spent_s() - self._began_s))
        return report

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        if hasattr(session.config, "workeroutput"):
            session.config.workeroutput["costs"] = self.outcome()

    def outcome(self) -> dict[str, Any]:
        return {"spent_s": spent_s(), "collected_s": self.collected_s, "fixtures_s": dict(self.fixtures_s)}


class Bill:
    """The part of the process that reports: it has the costs of all processes."""

    def __init__(self, costs: Costs, dearest: int) -> None:
        self._costs = costs
        self._dearest = dearest
        self._tests_s: dict[str, float] = {}
        self._thorough: set[str] = set()
        self._processes: list[Mapping[str, Any]] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        for name, value in report.user_properties:
            if name == PROPERTY and isinstance(value, float):
                self._tests_s[report.nodeid] = value
                if "thorough" in report.keywords:
                    self._thorough.add(report.nodeid)

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        self._processes.append(getattr(node, "workeroutput", {}).get("costs", {}))  # nothing of one that crashed

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        if lines := [*(self._sums() if self._dearest else ()), *self._dear()]:
            terminalreporter.section("CPU")
            for line in lines:
                terminalreporter.line(line)

    def _sums(self) -> Iterator[str]:
        own = self._costs.outcome()
        processes = self._processes or [own]
        reporting_s = time.process_time() if self._processes else 0.0
        spent_s = reporting_s + sum(each.get("spent_s", 0.0) for each in processes)
        collected_s = sum(each.get("collected_s", 0.0) for each in processes)
        yield f"{spent_s:.0f} s in all, {collected_s:.0f} s of them until the tests were collected"
        for share, taken_s in dearest_first(self._shares(processes)):
            if taken_s >= SHARE_S:
                yield f"{taken_s:6.1f} s  {share}"
        yield f"the {self._dearest} dearest tests:"
        for test, taken_s in dearest_first(self._tests_s)[: self._dearest]:
            yield f"{taken_s:6.2f} s  {test}"

    def _shares(self, processes: Iterable[Mapping[str, Any]]) -> Mapping[str, float]:
        """Return the sum of each folder, or of a file that is in none, and of each shared fixture."""
        shares: defaultdict[str, float] = defaultdict(float)
        for test, taken_s in self._tests_s.items():
            shares["/".join(test.partition("::")[0].split("/")[:2])] += taken_s
        for process in processes:
            for name, taken_s in process.get("fixtures_s", {}).items():
                shares[f"fixture {name}"] += taken_s
        return shares

    def _dear(self) -> Iterator[str]:
        """Yield a line for each test that is to be marked as thorough, or made cheaper."""
        for test, taken_s in dearest_first(self._tests_s):
            if taken_s >= DEAR_S and test not in self._thorough:
                yield f"{taken_s:6.2f} s  {test} is dear, and not marked as thorough (tests/README.md)"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--costs", type=int, default=0, metavar="N", help="print the CPU of each folder and of the N dearest tests"
    )


def pytest_configure(config: pytest.Config) -> None:
    costs = Costs()
    config.pluginmanager.register(costs, "costs")
    if not hasattr(config, "workerinput"):
        config.pluginmanager.register(Bill(costs, config.getoption("costs")), "bill")
