"""A server that is killed again and again loses nothing that it has promised, and tells nobody anything twice."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from benchmarks.servers import free_port
from benchmarks.soak.killed_groups import KilledGroups
from benchmarks.soak.kills import HISTORY, Kills
from benchmarks.soak.stored import jobs_in
from tests.serving.programs import Program, StartProgram

pytestmark = pytest.mark.usefixtures("bounded")


class KillableProgram:
    """A program of a test, with a store."""

    def __init__(self, start_program: StartProgram, path: Path, mode: str) -> None:
        self.port = free_port()
        self._arguments = (
            "--port",
            str(self.port),
            "--store",
            str(path),
            "--store-sync",
            mode,
            "--hello",
            "",
            *HISTORY,
        )
        self._start_program = start_program
        self._program: Program | None = None

    async def start(self) -> None:
        self._program = self._start_program(*self._arguments)

    def kill(self) -> None:
        assert self._program is not None
        self._program.kill()
        self._program.end()


@pytest.mark.parametrize(
    ("mode", "rounds"),
    [
        ("always", 3),
        pytest.param("interval", 10, marks=pytest.mark.thorough),
        pytest.param("never", 10, marks=pytest.mark.thorough),
    ],
)
async def test_nothing_is_lost_or_doubled_over_kills(
    start_program: StartProgram, tmp_path: Path, mode: str, rounds: int
) -> None:
    kills = Kills(KillableProgram(start_program, tmp_path / "rooms.db", mode), rounds, "1")
    assert await kills.run() == []
    assert kills.account.counts["kills"] == rounds
    assert min(kills.account.counts[who] for who in ("POST", "read_websocket", "read_events", "poll")) > 0


class StoppableProgram(KillableProgram):
    """A program that is asked to stop, and does so in order."""

    def kill(self) -> None:
        assert self._program is not None
        self._program.signal(signal.SIGTERM)
        assert self._program.wait() == 0
        assert not [line for line in self._program.lines if " ERROR " in line or "Traceback" in line]


async def test_a_server_that_is_stopped_loses_nothing_either(start_program: StartProgram, tmp_path: Path) -> None:
    kills = Kills(StoppableProgram(start_program, tmp_path / "rooms.db", "interval"), 2, "1")
    assert await kills.run() == []
    assert kills.account.counts["kills"] == 2


@pytest.mark.thorough
async def test_all_jobs_are_done_over_kills(start_program: StartProgram, tmp_path: Path) -> None:
    server = KillableProgram(start_program, tmp_path / "rooms.db", "interval")
    groups = KilledGroups(server, 4, "1")
    assert await groups.run() == []
    server.kill()
    assert jobs_in(tmp_path / "rooms.db") == []
    assert groups.counts["kills"] == 4
    assert all(ledger.counts["deliveries"] > 0 for ledger in groups.ledgers.values())
