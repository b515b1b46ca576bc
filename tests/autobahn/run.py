"""Run the Autobahn testsuite against rawws, as server and as client.

    python -m tests.autobahn.run --work FOLDER

The suite is a program for Python 2.7, which has to be on this machine: as ``python2.7``, as what ``PYTHON27`` names,
or among pyenv's versions. It is installed into FOLDER, and its reports are written there. The exit status is 0 when
all is well, 1 when a case failed, and 3 when there is no Python 2.7.
"""

from __future__ import annotations

import argparse
import collections
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

NO_PYTHON_27 = 3
MAX_NON_STRICT = 3
HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent

# The results that count as right. INFORMATIONAL cases only report the behaviour of an implementation.
FINE = ("OK", "INFORMATIONAL")


@dataclass(frozen=True)
class Subject:
    """One way in which rawws takes part. ``command`` gets the port to listen on, or the URL to connect to."""

    name: str
    title: str
    command: tuple[str, ...]
    is_server: bool


PROGRAM = ("-m", "rawws", "--mode", "echo", "--hello", "", "--max-size", "64M", "--log-level", "warning", "--port")
SUBJECTS = (
    Subject("program", "server: `python -m rawws`", PROGRAM, True),
    Subject("program-plain", "the same with `--no-fast-lane`", ("-m", "rawws", "--no-fast-lane", *PROGRAM[2:]), True),
    Subject("handler", "server: `rawws.serve`", ("-m", "tests.autobahn.echo_server", "--port"), True),
    Subject("client", "client: `rawws.connect`", ("-m", "tests.autobahn.echo_client", "--url"), False),
    Subject(
        "client-plain",
        "the same with `fast_lane=False`",
        ("-m", "tests.autobahn.echo_client", "--no-fast-lane", "--url"),
        False,
    ),
)


def find_python27() -> str | None:
    candidates = [os.environ.get("PYTHON27"), shutil.which("python2.7")]
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    candidates += map(str, sorted(pyenv.glob("versions/2.7.*/bin/python2.7"), reverse=True))
    for candidate in filter(None, candidates):
        # A shim may be there without what it stands for.
        if subprocess.run([candidate, "-c", ""], capture_output=True).returncode == 0:
            return candidate
    return None


def install_suite(python27: str, work: Path) -> Path:
    """Return the suite's program, installed into a virtual environment of its own if it isn't yet."""
    suite = work / "suite"
    wstest = suite / "bin" / "wstest"
    if not wstest.exists():
        quiet = {**os.environ, "PIP_DISABLE_PIP_VERSION_CHECK": "1", "PYTHONWARNINGS": "ignore"}
        maker = work / "virtualenv"
        # The last version of virtualenv that makes an environment for 2.7.
        run([python27, "-m", "pip", "install", "-q", "--target", str(maker), "virtualenv==20.15.1"], quiet)
        run([python27, "-m", "virtualenv", "-q", str(suite)], {**quiet, "PYTHONPATH": str(maker)})
        run([str(suite / "bin" / "pip"), "install", "-q", "autobahntestsuite==0.8.2"], quiet)
    return wstest


def run(command: list[str], environment: dict[str, str]) -> None:
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(command)} failed:\n{done.stdout[-4000:]}")


@contextmanager
def running(command: list[str], port: int, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run a server until the block ends, which begins when something listens on the port."""
    with log.open("wb") as output, subprocess.Popen(command, cwd=ROOT, stdout=output, stderr=output) as process:
        try:
            deadline = time.monotonic() + 20
            while True:
                try:
                    socket.create_connection(("127.0.0.1", port), 1).close()
                    break
                except OSError:
                    if process.poll() is not None or time.monotonic() > deadline:
                        sys.exit(f"{' '.join(command)} does not listen:\n{log.read_text()}")
                    time.sleep(0.05)
            yield process
        finally:
            process.terminate()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def test(subject: Subject, wstest: Path, work: Path, cases: list[str]) -> dict[str, dict[str, Any]]:
    """Run the suite against one subject and return its verdict on each case."""
    reports = work / "reports" / subject.name
    shutil.rmtree(reports, ignore_errors=True)
    port = free_port()
    url = f"ws://127.0.0.1:{port}"
    spec: dict[str, Any] = {"outdir": str(reports), "cases": cases, "exclude-cases": [], "exclude-agent-cases": {}}
    program = [sys.executable, *subject.command]
    log = work / f"{subject.name}.log"
    spec_file = work / f"{subject.name}.json"
    if subject.is_server:
        spec["servers"] = [{"agent": subject.name, "url": url}]
        spec_file.write_text(json.dumps(spec))
        with running([*program, str(port)], port, log):
            run([str(wstest), "-m", "fuzzingclient", "-s", str(spec_file)], dict(os.environ))
    else:
        spec["url"] = url
        spec_file.write_text(json.dumps(spec))
        with running([str(wstest), "-m", "fuzzingserver", "-s", str(spec_file)], port, log):
            environment = {**os.environ, "PYTHONPATH": str(ROOT)}
            run([*program, url], environment)
    index = json.loads((reports / "index.json").read_text())
    (verdicts,) = index.values()
    return dict(verdicts)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = [subject.name for subject in SUBJECTS]
    parser.add_argument("--work", type=Path, required=True, help="a folder for the suite and its reports")
    parser.add_argument("--only", default=",".join(names), help=f"some of {', '.join(names)}")
    parser.add_argument("--cases", default="*", help="such as 1.*,12.*; all by default")
    options = parser.parse_args()
    python27 = find_python27()
    if python27 is None:
        print("There is no Python 2.7 on this machine, which the Autobahn testsuite needs.", file=sys.stderr)
        return NO_PYTHON_27
    work = options.work.resolve()
    work.mkdir(parents=True, exist_ok=True)
    wstest = install_suite(python27, work)
    lines = ["| | OK | NON-STRICT | INFORMATIONAL | UNIMPLEMENTED | FAILED |", "|---|---:|---:|---:|---:|---:|"]
    status = 0
    for subject in SUBJECTS:
        if subject.name not in options.only.split(","):
            continue
        started = time.monotonic()
        verdicts = test(subject, wstest, work, options.cases.split(","))
        counts = collections.Counter(verdict["behavior"] for verdict in verdicts.values())
        for case, verdict in sorted(verdicts.items()):
            if verdict["behavior"] not in FINE or verdict["behaviorClose"] not in FINE:
                print(f"{subject.name}: {case}: {verdict['behavior']}, closing {verdict['behaviorClose']}")
        figures = [counts[kind] for kind in ("OK", "NON-STRICT", "INFORMATIONAL", "UNIMPLEMENTED", "FAILED")]
        lines.append(f"| {subject.title} | {' | '.join(map(str, figures))} |")
        closes = collections.Counter(verdict["behaviorClose"] for verdict in verdicts.values())
        took_s = time.monotonic() - started
        print(f"{subject.name}: {dict(counts)}, closing {dict(closes)}, in {took_s:.0f} s", flush=True)
        bad = sum(counts.values()) - counts["OK"] - counts["INFORMATIONAL"] - counts["NON-STRICT"]
        bad += sum(closes.values()) - closes["OK"] - closes["INFORMATIONAL"]
        if bad or counts["NON-STRICT"] > MAX_NON_STRICT or not verdicts:
            status = 1
    print("\n".join(lines))
    return status


if __name__ == "__main__":
    sys.exit(main())
