"""Each module of the sans-IO layer, covered by its own tests: every line and every branch.

``python -m tests.own_coverage`` runs for each module of rawws/wire/ its own test files, and them alone, under coverage.
It ends with 1 if a module has none, if they don't pass, or if they leave something out. That other tests come through a
module is no test of it: they would come through just as well if it did something else than it says.

A module's own files are tests/wire/test_NAME.py and tests/wire/test_NAME_*.py, but for those that are another module's
by its longer name. Properties, whose examples are chance, don't count: what they cover today they may not cover
tomorrow. It needs the extra "dev".
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
MODULES = sorted(path.stem for path in (ROOT / "rawws/wire").glob("*.py") if path.stem != "__init__")
TESTS = sorted((ROOT / "tests/wire").glob("test_*.py"))


def owner_of(test: Path) -> str:
    """Return the module whose own a test file is: of those whose names fit, the longest. Empty if there is none."""
    name = test.stem.removeprefix("test_")
    return max((module for module in MODULES if f"{name}_".startswith(f"{module}_")), key=len, default="")


def shortfall(module: str, folder: Path) -> str:
    """Run a module's own tests, and say what is amiss; return nothing where they cover it."""
    own = [str(test.relative_to(ROOT)) for test in TESTS if owner_of(test) == module]
    if not own:
        return f"{module}: has no test file of its own, such as tests/wire/test_{module}.py"
    source = f"rawws/wire/{module}.py"
    data = folder / module
    run = [sys.executable, "-m", "coverage", "run", "--branch", f"--include={source}", f"--data-file={data}"]
    tests = ["-m", "pytest", "-q", "-n", "0", "-p", "no:cacheprovider", "-m", "not hypothesis", *own]
    ran = subprocess.run([*run, *tests], cwd=ROOT, capture_output=True, text=True, check=False)
    if ran.returncode:
        return f"{module}: its own tests end with {ran.returncode}\n{ran.stdout}{ran.stderr}"
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
    parser.add_argument("modules", nargs="*", metavar="MODULE", help="these alone, such as handshake")
    parser.add_argument("-j", "--jobs", type=int, default=os.cpu_count(), help="at a time (default: one for each core)")
    options = parser.parse_args(arguments)
    modules: list[str] = options.modules or MODULES
    if unknown := sorted(set(modules) - set(MODULES)):
        parser.error(f"not in rawws/wire/: {', '.join(unknown)}")
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="rawws-coverage-") as folder, ThreadPoolExecutor(options.jobs) as pool:
        short = [said for said in pool.map(partial(shortfall, folder=Path(folder)), modules) if said]
    for said in short:
        print(said)
    took_s = time.monotonic() - began
    print(f"{len(modules) - len(short)} of {len(modules)} modules are covered by their own tests ({took_s:.0f} s)")
    return 1 if short else 0


if __name__ == "__main__":
    sys.exit(main())
