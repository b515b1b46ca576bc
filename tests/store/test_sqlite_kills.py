"""A store whose process is killed at random times, again and again."""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path

import pytest

from rawws.store.modes import SyncMode
from tests.store.stores import MOST, Place, append

PATHS = ("/room/a", "/room/b")

WRITER = """
import sys
from pathlib import Path
from rawws.broadcast.log import History
from rawws.store import sqlite_engine
from rawws.store.entries import Append, GroupWrite, Job
from rawws.store.modes import SyncMode
sqlite_engine.CHECKPOINT_BYTES = 64 * 1024
store, mode, number = Path(sys.argv[1]), SyncMode(sys.argv[2]), int(sys.argv[3])
engine = sqlite_engine.SqliteEngine(store, mode)
history = History(messages=1_000_000, max_bytes=1 << 40)
while True:
    entries = []
    for path in ("/room/a", "/room/b"):
        for _ in range(number % 7 + 1):
            number += 1
            entries.append(Append(path, b"%d " % number * (number % 50 + 1), 1, history))
        entries.append(GroupWrite(path, "g", number, (Job(number, 1, 0.0, ""),), (number - 1,)))
    outcomes = engine.commit(entries)
    for entry, outcome in zip(entries, outcomes, strict=True):
        if outcome.first:
            print(entry.path, outcome.epoch, outcome.first, int(entry.frames.split()[0]), flush=True)
"""


def write_and_kill(store: Path, mode: SyncMode, begin: int, lines: int) -> list[tuple[str, str, int, int]]:
    """Have a process append messages, kill it after some of its lines, and return what it has promised."""
    command = [sys.executable, "-c", WRITER, str(store), mode.value, str(begin)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout
        said = [writer.stdout.readline() for _ in range(lines)]
        writer.kill()
        said += writer.stdout.readlines()
    promised = (line.split() for line in said if line.endswith("\n"))
    return [(path, epoch, int(first), int(number)) for path, epoch, first, number in promised]


def check(store: Path, mode: SyncMode, promised: dict[tuple[str, str, int], int]) -> None:
    with Place(store, mode).open() as engine:
        assert getattr(engine, "lost", None) == 0
        payloads = []
        for path in PATHS:
            page = engine.read(path, 0, MOST, MOST)
            assert page is not None
            assert [record.first for record in page.records] == list(range(1, page.tail.newest + 1))
            for record in page.records:
                assert record.frames is not None
                number = int(record.frames.split()[0])
                assert record.frames == b"%d " % number * (number % 50 + 1)
                assert promised.pop((path, page.tail.epoch, record.first), number) == number
                payloads.append(number)
        assert len(set(payloads)) == len(payloads)
    assert promised == {}


@pytest.mark.parametrize("mode", list(SyncMode))
@pytest.mark.parametrize("rounds", [2, pytest.param(12, marks=(pytest.mark.thorough, pytest.mark.patience(600)))])
def test_a_message_that_was_promised_is_there_after_any_kill(quick_path: Path, mode: SyncMode, rounds: int) -> None:
    store = quick_path / "rooms.db"
    promised: dict[tuple[str, str, int], int] = {}
    for turn in range(rounds):
        lines = write_and_kill(store, mode, turn * 1_000_000, random.randrange(1, 400))
        promised.update({(path, epoch, first): number for path, epoch, first, number in lines})
        check(store, mode, dict(promised))


def test_a_process_that_follows_goes_on_with_the_numbers(quick_path: Path) -> None:
    store = quick_path / "rooms.db"
    promised = write_and_kill(store, SyncMode.INTERVAL, 0, 20)
    last = max(first for path, _, first, _ in promised if path == PATHS[0])
    with Place(store).open() as engine:
        (outcome,) = append(engine, "next", path=PATHS[0])
        assert outcome.epoch == promised[0][1]
        assert outcome.first > last
