"""Each sans-IO module, covered by its own tests: every line and every branch.

``python -m tests.own_coverage`` runs the own test files of each module of rawws/wire/, rawws/broadcast/ and
rawws/inspection/, and them alone, under coverage. It ends with status 1 if a module has none, if they fail, or if they
leave a line out. A test of another module that happens to run a line does not test it: it would also pass if the line
did something else.

The own files of FOLDER/NAME.py are tests/FOLDER/test_NAME.py and tests/FOLDER/test_NAME_*.py, except those that belong
to another module by its longer name. Property-based tests don't count, because their examples are random. The extra
"dev" is needed.
"""

from __future__ import annotations

import argparse
import io
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import coverage

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = ("wire", "broadcast", "inspection")
MODULES = sorted(
    f"{folder}/{path.stem}"
    for folder in FOLDERS
    for path in (ROOT / "rawws" / folder).glob("*.py")
    if path.stem != "__init__"
)
TESTS = sorted(path for folder in FOLDERS for path in (ROOT / "tests" / folder).glob("test_*.py"))


def owner_of(test: Path) -> str:
    """Return the module that a test file belongs to: the longest name that fits, or an empty one."""
    name = f"{test.parent.name}/{test.stem.removeprefix('test_')}"
    return max((module for module in MODULES if f"{name}_".startswith(f"{module}_")), key=len, default="")


def shortfall(module: str, folder: Path) -> str:
    """Run a module's own tests, and return a sentence about the lines that are missing, or nothing."""
    own = [str(test.relative_to(ROOT)) for test in TESTS if owner_of(test) == module]
    if not own:
        return f"{module}: it has no test file of its own, such as tests/{module.replace('/', '/test_')}.py"
    source = f"rawws/{module}.py"
    data = folder / module.replace("/", ".")
    run = [sys.executable, "-m", "coverage", "run", "--branch", f"--include={source}", f"--data-file={data}"]
    tests = ["-m", "pytest", "-q", "-n", "0", "-p", "no:cacheprovider", "-m", "not hypothesis", *own]
    ran = subprocess.run([*run, *tests], cwd=ROOT, capture_output=True, text=True, check=False)
    if ran.returncode:
        return f"{module}: its own tests end with status {ran.returncode}\n{ran.stdout}{ran.stderr}"
    covered = coverage.Coverage(data_file=str(data), branch=True, config_file=False)
    covered.load()
    table = io.StringIO()
    percent = covered.report(include=[str(ROOT / source)], show_missing=True, file=table)
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
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="rawws-coverage-") as folder, ThreadPoolExecutor(options.jobs) as pool:
        short = [sentence for sentence in pool.map(partial(shortfall, folder=Path(folder)), modules) if sentence]
    for sentence in short:
        print(sentence)
    took_s = time.monotonic() - began
    print(f"{len(modules) - len(short)} of {len(modules)} modules are covered by their own tests ({took_s:.0f} s)")
    return 1 if short else 0


if __name__ == "__main__":
    sys.exit(main())
