"""Fixtures for the tests over real sockets. Everything stays on loopback and within a bounded time."""

from __future__ import annotations

import faulthandler
import gc
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import AsyncIterator, Generator, Iterator
from typing import Any

import pytest
import trio
from hypothesis import settings

from tests import bytecode, costs
from tests.effort import TRIES_ALL  # and the profiles are registered
from tests.forked import Forker
from tests.serving.machine import PATIENCE_S, pace, watch_the_clock
from tests.serving.programs import StartProgram
from tests.serving.server import Serve, StartHub

# A shell makes background programs ignore Ctrl-C, and programs that a test starts would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)

STANDARD_ERROR = pytest.StashKey[int]()  # its descriptor, for what is told although pytest captures it

bytecode.write_it()
settings.load_profile("rawws")  # unless --hypothesis-profile names another


def pytest_xdist_auto_num_workers() -> int:
    """Return two processes more than there are cores: half of the time is spent waiting for programs and clocks.

    With more than four, tests of timing would wait for a core.
    """
    return min(4, 2 + len(os.sched_getaffinity(0) if sys.platform == "linux" else range(os.cpu_count() or 1)))


def pytest_addoption(parser: pytest.Parser) -> None:
    costs.pytest_addoption(parser)


def pytest_configure(config: pytest.Config) -> None:
    """Leave out the thorough tests, unless the command line has a path or a choice of markers."""
    config.stash[STANDARD_ERROR] = os.dup(2)  # pytest captures none yet
    costs.pytest_configure(config)
    if hasattr(config, "workerinput"):
        config.option.markexpr = config.workerinput["markexpr"]
    elif not config.option.markexpr and config.args_source is not pytest.Config.ArgsSource.ARGS:
        config.option.markexpr = "not thorough"


def pytest_configure_node(node: Any) -> None:
    """Tell a process what the first one has decided: a process doesn't know where its paths come from."""
    node.workerinput["markexpr"] = node.config.option.markexpr


@pytest.hookimpl(wrapper=True)  # before the modules are imported one after the other
def pytest_collection(session: pytest.Session) -> Generator[None, object, object]:
    """Have the processes of a run share the work of compiling the test modules, and report a path that is wrong."""
    process = getattr(session.config, "workerinput", None)
    if process is None:
        return (yield)
    number = int(process["workerid"].removeprefix("gw"))
    bytecode.import_in_turn(session.config, number, process["workercount"])
    try:
        return (yield)
    except pytest.UsageError as error:
        session.config.workeroutput["usage_error"] = error.args  # type: ignore[attr-defined]
        raise


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Say what a process had to say, as pytest does without xdist: the path or the test that doesn't exist."""
    if lines := getattr(node, "workeroutput", {}).get("usage_error"):
        raise pytest.UsageError(*lines)


@pytest.hookimpl(tryfirst=True)  # before the markers choose
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests in a browser as thorough: a page costs both cores a second.

    The first of each folder that visits a page remains, and the first that does more with the browser.
    """
    seen = set()
    for item in items:
        fixtures = getattr(item, "fixturenames", ())
        if "browser" in fixtures:
            kind = (item.path.parent, "visit" in fixtures)
            if kind in seen:
                item.add_marker(pytest.mark.thorough)
            seen.add(kind)


def pytest_collection_finish() -> None:
    """Keep what the test modules are made of out of later garbage collections, each of which would take 0.2 s."""
    gc.collect()
    gc.freeze()


# No test takes a quarter of it on a machine that does nothing else.
ALARM_S = 7200 if TRIES_ALL else 360


@pytest.fixture(autouse=True)
def logging_as_before() -> Iterator[None]:
    """Restore the configuration that a command changed during the test."""
    logger = logging.getLogger("rawws")
    handlers, level = logger.handlers[:], logger.level
    yield
    logger.handlers[:] = handlers
    if logger.level != level:
        logger.setLevel(level)


@pytest.fixture(autouse=True)
def alarm(pytestconfig: pytest.Config) -> Iterator[None]:
    """Fail a test that hangs anywhere, by the wall clock. A busy machine gets more time.

    The tracebacks of all threads are written to standard error then, even of one that hangs in C. pytest's own option
    for this starts and ends a thread for each test, and waits for that.
    """
    began = time.monotonic()

    def ring(*_: object) -> None:
        taken_s = time.monotonic() - began
        left_s = ALARM_S * pace() - taken_s
        if left_s < 1:
            raise TimeoutError(f"the test hangs: it is not over after {taken_s:.0f} s")
        signal.alarm(int(left_s))

    before = signal.signal(signal.SIGALRM, ring)
    faulthandler.register(signal.SIGALRM, pytestconfig.stash[STANDARD_ERROR], chain=True)
    signal.alarm(ALARM_S)
    try:
        yield
    finally:
        signal.alarm(0)
        faulthandler.unregister(signal.SIGALRM)
        signal.signal(signal.SIGALRM, before)


@pytest.fixture
async def bounded(nursery: trio.Nursery, request: pytest.FixtureRequest) -> AsyncIterator[None]:
    """Fail the test when it hangs. The other fixtures for tests on trio depend on it.

    A test that has to take long is marked ``patience(seconds)``.
    """
    over = threading.Event()
    marked = request.node.get_closest_marker("patience")
    nursery.start_soon(watch_the_clock, over, marked.args[0] if marked else PATIENCE_S)
    try:
        yield
    finally:
        over.set()


@pytest.fixture
async def serve(nursery: trio.Nursery, bounded: None) -> AsyncIterator[Serve]:  # noqa: ARG001
    """Start servers in the test's nursery, each on its own port."""
    starter = Serve(nursery)
    try:
        yield starter
    finally:
        starter.hang_up()


@pytest.fixture
async def start_hub(nursery: trio.Nursery, bounded: None) -> AsyncIterator[StartHub]:  # noqa: ARG001
    """Start hubs in the test's nursery."""
    starter = StartHub(nursery)
    try:
        yield starter
    finally:
        starter.hang_up()


@pytest.fixture(scope="session")
def forker() -> Iterator[Forker]:
    """The process from which the programs are forked."""
    forker = Forker()
    try:
        yield forker
    finally:
        forker.close()


@pytest.fixture
def start_program(forker: Forker) -> Iterator[StartProgram]:
    """Start ``python -m rawws`` processes, and end the ones that the test has left running."""
    starter = StartProgram(forker)
    try:
        yield starter
    finally:
        for program in starter.started:
            program.end()
