"""The kills of a server with a store, as processes: ``python -m benchmarks soak --store``."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
import tempfile
from collections import Counter
from contextlib import closing, suppress
from pathlib import Path

import trio

from benchmarks import servers
from benchmarks.servers import HOST, Unavailable
from benchmarks.soak.clients import Cut, Line, Refused
from benchmarks.soak.killed_groups import KilledGroups
from benchmarks.soak.kills import HISTORY, Kills

MODES = ("always", "interval", "never")
START_TIMEOUT_S = 60.0
MOST_TOLD = 20


class StoringNode:
    """A process ``python -m rawws --store PATH``."""

    def __init__(self, folder: Path, mode: str, name: str) -> None:
        self.port = servers.free_port()
        self.store = folder / f"{name}-{mode}.db"
        self._log = self.store.with_suffix(".log")
        store = ("--store", str(self.store), "--store-sync", mode)
        command = [sys.executable, "-m", "rawws", "--host", HOST, "--port", str(self.port), "--hello", "", *store]
        self._command = [*command, *HISTORY]
        self._process: subprocess.Popen[bytes] | None = None

    async def start(self) -> None:
        with self._log.open("ab") as output:
            self._process = subprocess.Popen(
                self._command, stdin=subprocess.DEVNULL, stdout=output, stderr=output,
                env=servers.environment(), start_new_session=True,
            )  # fmt: skip
        with trio.fail_after(START_TIMEOUT_S):
            while self._process.poll() is None:
                with suppress(OSError, Cut, Refused), await Line.open(self.port) as line:
                    await line.ask("GET /readyz HTTP/1.1")
                    return
                await trio.sleep(0.02)
        raise Unavailable(f"the server did not start: {self._log.read_text(errors='replace')[-2000:]}")

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def complaints(self) -> list[str]:
        """Return the lines of the log that a kill may not cause."""
        return [line for line in self._log.read_text(errors="replace").splitlines() if " ERROR " in line]


async def _kill(node: StoringNode, run: Kills | KilledGroups) -> list[str]:
    try:
        return await run.run() + node.complaints()
    finally:
        node.kill()


def jobs_in(store: Path) -> list[str]:
    """Report the jobs that a store still has, though its groups have nothing left to do."""
    with closing(sqlite3.connect(store)) as database:
        (count,) = database.execute("SELECT count(*) FROM jobs").fetchone()
    return [f"the store has {count} blocks of jobs"] if count else []


async def run(rounds: int, seed: str) -> int:
    """Kill a server in each mode, with rooms and with groups, print the counts, and return the exit status."""
    faults: list[str] = []
    with tempfile.TemporaryDirectory(prefix="rawws-kills-") as name:
        for mode in MODES:
            node = StoringNode(Path(name), mode, "rooms")
            kills = Kills(node, rounds, seed)
            found = {"rooms": await _kill(node, kills)}
            _print_counts(f"{mode}, rooms", kills.account.counts)
            node = StoringNode(Path(name), mode, "groups")
            groups = KilledGroups(node, rounds, seed)
            found["groups"] = await _kill(node, groups) + jobs_in(node.store)
            _print_counts(f"{mode}, groups", groups.counts)
            faults += [f"{mode}, {which}: {fault}" for which, some in found.items() for fault in some]
    for fault in faults[:MOST_TOLD]:
        print(fault)
    print(f"faults: {len(faults):,}" if faults else "nothing lost, nothing twice, nothing out of order")
    return 1 if faults else 0


def _print_counts(what: str, counts: Counter[str]) -> None:
    print(f"{what:<18}" + ", ".join(f"{each} {count:,}" for each, count in sorted(counts.items())), flush=True)
