"""Each sans-IO module, covered by its own tests: every line and every branch.

``python -m tests.own_coverage`` runs the own test files of each module of rawws/wire/, rawws/broadcast/, rawws/access/
and rawws/inspection/, and of some modules elsewhere (``SINGLE``), and them alone, under coverage. It ends with status 1
if a module has none, if they fail, or if they leave a line out. A test of another module that happens to run a line
does not test it: it would also pass if the line did something else.

The own files of FOLDER/NAME.py are tests/FOLDER/test_NAME.py and tests/FOLDER/test_NAME_*.py, except those that belong
to another module by its longer name. Property-based tests don't count, because their examples are random. The extra
"dev" is needed.
"""

from __future__ import annotations

import argparse
import importlib
import io
import itertools
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import coverage
import pytest

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = ("wire", "broadcast", "access", "inspection")
# Those of folders whose other modules block.
SINGLE = (
    *("store/checksums", "store/entries", "store/file_bounds", "store/losses", "store/modes", "store/retention"),
    *("local/outgoing", "local/protocol", "local/sequence", "local/sequencer", "local/unconfirmed"),
    *("groups/backlog", "groups/group", "groups/leases", "groups/mirror", "groups/protocol", "groups/timers"),
)
MODULES = sorted(
    [
        *SINGLE,
        *(
            f"{folder}/{path.stem}"
            for folder in FOLDERS
            for path in (ROOT / "rawws" / folder).glob("*.py")
            if path.stem != "__init__"
        ),
    ]
)
TESTED_FOLDERS = sorted({*FOLDERS, *(module.partition("/")[0] for module in SINGLE)})
TESTS = sorted(path for folder in TESTED_FOLDERS for path in (ROOT / "tests" / folder).glob("test_*.py"))


def owner_of(test: Path) -> str:
    """Return the module that a test file belongs to: the longest name that fits, or an empty one."""
    name = f"{test.parent.name}/{test.stem.removeprefix('test_')}"
    return max((module for module in MODULES if f"{name}_".startswith(f"{module}_")), key=len, default="")


# One process runs the tests of many modules, since its start costs more than most of them. Coverage keeps apart which
# test file has run a line: its name is the context while the file is collected and while its tests run. The hooks are
# those of a plugin of pytest, which is this module.


def pytest_configure() -> None:
    """Import all modules before the first test file does, as lines that belong to no file."""
    for module in MODULES:
        importlib.import_module(f"rawws.{module.replace('/', '.')}")


def pytest_collectstart(collector: pytest.Collector) -> None:
    if isinstance(collector, pytest.Module):
        _enter(collector.nodeid)


def pytest_runtest_logstart(nodeid: str) -> None:
    _enter(nodeid.partition("::")[0])


def _enter(test: str) -> None:
    running = coverage.Coverage.current()
    assert running is not None
    running.switch_context(test)


def run_tests(modules: Sequence[str], data: Path) -> str:
    """Run the own tests of these modules in one process, and return its output if they fail."""
    files = {f"rawws/{module}.py": own_tests(module) for module in modules}
    run = [sys.executable, "-m", "coverage", "run", "--branch", f"--include={','.join(files)}", f"--data-file={data}"]
    tests = ["-m", "pytest", "-q", "-n", "0", "-p", "no:cacheprovider", "-p", "tests.own_coverage"]
    tests += ["-m", "not hypothesis and not thorough", *itertools.chain(*files.values())]
    # Another core of coverage, sys.monitoring, reports a line only once, whichever file runs it next.
    environment = {**os.environ, "COVERAGE_CORE": "ctrace"}
    ran = subprocess.run([*run, *tests], cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    return f"the tests end with status {ran.returncode}\n{ran.stdout}{ran.stderr}" if ran.returncode else ""


def own_tests(module: str) -> list[str]:
    return [str(test.relative_to(ROOT)) for test in TESTS if owner_of(test) == module]


def shortfalls(modules: Sequence[str], folder: Path) -> list[str]:
    """Run the own tests of these modules, and return a sentence about each that has lines missing."""
    data = folder / modules[0].replace("/", ".")
    if failure := run_tests(modules, data):
        return [failure, *(f"{module}: unknown, since tests failed" for module in modules[1:])]
    return [sentence for module in modules if (sentence := shortfall(module, data))]


def shortfall(module: str, data: Path) -> str:
    """Return a sentence about the lines that a module's own tests have left out, or nothing."""
    own = own_tests(module)
    covered = coverage.Coverage(data_file=str(data), branch=True, config_file=False)
    covered.load()
    table = io.StringIO()
    contexts = ["^$", *(f"^{re.escape(test)}$" for test in own)]
    percent = covered.report(
        include=[str(ROOT / f"rawws/{module}.py")], contexts=contexts, show_missing=True, file=table
    )
    if percent == 100:
        return ""
    missing = table.getvalue().splitlines()[2].partition("%")[2].strip()
    return f"{module}: {percent:.1f} % by {' '.join(own)}, without {missing}"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.own_coverage", description=__doc__.partition("\n")[0])
    parser.add_argument("modules", nargs="*", metavar="MODULE", help="these modules alone, such as wire/handshake")
    parser.add_argument("-j", "--jobs", type=int, default=os.cpu_count(), help="processes (default: one for each core)")
    options = parser.parse_args(arguments)
    modules: list[str] = options.modules or MODULES
    if unknown := sorted(set(modules) - set(MODULES)):
        parser.error(f"no sans-IO module is called {', '.join(unknown)}")
    if untested := [module for module in modules if not own_tests(module)]:
        names = ", ".join(f"tests/{module.replace('/', '/test_')}.py" for module in untested)
        parser.exit(1, f"modules without a test file of their own, such as {names}\n")
    began = time.monotonic()
    shares = [modules[first :: options.jobs] for first in range(min(options.jobs, len(modules)))]
    with tempfile.TemporaryDirectory(prefix="rawws-coverage-") as folder, ThreadPoolExecutor(options.jobs) as pool:
        short = list(itertools.chain(*pool.map(partial(shortfalls, folder=Path(folder)), shares)))
    for sentence in short:
        print(sentence)
    took_s = time.monotonic() - began
    print(f"{len(modules) - len(short)} of {len(modules)} modules are covered by their own tests ({took_s:.0f} s)")
    return 1 if short else 0


if __name__ == "__main__":
    sys.exit(main())
