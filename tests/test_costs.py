"""The CPU of each test is measured, with that of its programs and without that of shared fixtures."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable

import pytest

from tests import costs
from tests.forked import Forked, Forker
from tests.serving.machine import PATIENCE_S

pytest_plugins = "pytester"

# A suite whose tests spend a tenth of a second of CPU, each in another place.
SUITE = """
import subprocess, sys, time
import pytest

SPEND = "import time\\nwhile time.process_time() < 0.1: pass"

def spend():
    end = time.process_time() + 0.1
    while time.process_time() < end:
        pass

@pytest.fixture(scope="module")
def shared():
    spend()
    yield
    spend()

@pytest.fixture
def own():
    yield
    spend()

def test_itself(): spend()
def test_a_program(): subprocess.run([sys.executable, "-S", "-c", SPEND])
def test_a_fixture_of_its_own(own): pass
def test_a_wait(): time.sleep(0.15)
def test_a_shared_fixture(shared): pass
@pytest.mark.thorough
def test_thorough(): spend()
"""

DEAR = ["test_a_fixture_of_its_own", "test_a_program", "test_itself"]


@pytest.fixture
def ran(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    def run(*arguments: str) -> str:
        monkeypatch.setattr(costs, "DEAR_S", 0.08)
        monkeypatch.setattr(costs, "SHARE_S", 0.05)
        pytester.makepyfile(test_suite=SUITE)
        pytester.makeini("[pytest]\nmarkers = thorough")
        return pytester.runpytest_inprocess("-p", "no:cacheprovider", *arguments, plugins=[costs]).stdout.str()

    return run


def test_dear_tests_that_are_not_thorough_are_named(ran: Callable[..., str]) -> None:
    named = re.findall(r"0\.\d\d s  test_suite\.py::(\w+) is dear, and not marked as thorough", ran())
    assert sorted(named) == DEAR


def test_the_sums_and_the_dearest_tests_are_printed_on_demand(ran: Callable[..., str]) -> None:
    printed = ran("--costs", "4")
    assert re.search(r"^\d+ s in all, \d+ s of them until the tests were collected$", printed, re.MULTILINE)
    (shared,) = re.findall(r"^ +(\S+) s  fixture test_suite\.py: shared$", printed, re.MULTILINE)
    assert float(shared) >= 0.2, "its setup and its teardown"
    dearest = re.findall(r"^ +\S+ s  test_suite\.py::(\w+)$", printed, re.MULTILINE)
    assert sorted(dearest) == sorted([*DEAR, "test_thorough"])


def test_without_a_dear_test_nothing_is_printed(ran: Callable[..., str]) -> None:
    assert "CPU" not in ran("-k", "wait or shared or thorough")


@pytest.mark.parametrize("ends", [True, False], ids=["that ends", "that is killed"])
def test_the_cpu_of_a_forked_program_counts(forker: Forker, ends: bool) -> None:
    before_s, before_forked_s = costs.spent_s(), Forked.spent_s
    arguments = ["--version"] if ends else ["decode"]
    with forker.start(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as program:
        if not ends:
            program.kill()
        program.wait(PATIENCE_S)
    forked_s = Forked.spent_s - before_forked_s
    assert forked_s > 0
    assert costs.spent_s() - before_s >= forked_s
