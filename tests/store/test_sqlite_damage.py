"""A store whose files are cut or changed at any byte: never another payload, and nothing is lost silently.

A thorough run tries one byte in 199, and the next run another one. RAWWS_TURN=all has it try every byte, which takes
half an hour.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from rawws.errors import UsageError
from rawws.store import sqlite_engine, sqlite_opening
from rawws.store.engine import StoreError
from rawws.store.entries import Append, GroupWrite, Job, Outcome
from rawws.store.modes import SyncMode
from rawws.store.sqlite_engine import SqliteEngine
from tests.effort import steps
from tests.store.stores import AMPLE, MOST, Clock

PATHS = ("/room/a", "/room/b")
PAGE = 4096
MESSAGES = 6


@dataclass
class Original:
    """A store as it was when its process ended, and what was promised of it."""

    folder: Path
    promised: dict[tuple[str, str, int], bytes]  # by path, epoch and number
    newest: dict[str, Outcome]

    def copy(self, to: Path) -> Path:
        shutil.rmtree(to, ignore_errors=True)
        shutil.copytree(self.folder, to)
        return to / "rooms.db"


def make(folder: Path, *, in_wal: bool) -> Original:
    """Make a short store, with its messages in the file or in the WAL, as it is while the process still runs."""
    engine = SqliteEngine(folder / "live.db", SyncMode.ALWAYS, Clock())
    promised: dict[tuple[str, str, int], bytes] = {}
    newest = {}
    for number in range(1, MESSAGES + 1):
        path = PATHS[number % 2]
        frames = f"{path} {number} ".encode() * (1 + number % 4 * 150)
        write = GroupWrite(path, "g", number // 2, (Job(number // 2, number, 0.0, ""),))
        outcome = engine.commit([Append(path, frames, 1, AMPLE), write])[0]
        promised[path, outcome.epoch, outcome.first] = frames
        newest[path] = outcome
    if not in_wal:
        engine._writer.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    copy = folder / "original"
    copy.mkdir()
    for suffix in ("", "-wal", "-lock"):
        shutil.copy(folder / f"live.db{suffix}", copy / f"rooms.db{suffix}")
    engine.close()
    return Original(copy, promised, newest)


@pytest.fixture(scope="module")
def in_file(tmp_path_factory: pytest.TempPathFactory) -> Original:
    return make(tmp_path_factory.mktemp("file"), in_wal=False)


@pytest.fixture(scope="module")
def in_wal(tmp_path_factory: pytest.TempPathFactory) -> Original:
    return make(tmp_path_factory.mktemp("wal"), in_wal=True)


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite_opening, "BUSY_S", 0.0)


def check(original: Original, store: Path) -> str:
    """Check the promises for a damaged copy, and return what became of it."""
    try:
        engine = SqliteEngine(store, SyncMode.NEVER, Clock())
    except UsageError:
        return "refused"
    try:
        became = {check_room(original, engine, path) for path in PATHS}
        engine.groups()
        return "lost" if "lost" in became else "whole"
    finally:
        engine.close()


def check_room(original: Original, engine: SqliteEngine, path: str) -> str:
    promised = original.newest[path]
    page = engine.read(path, 0, MOST, MOST)
    if page is not None and page.tail.epoch == promised.epoch:
        assert page.tail.newest >= promised.first or engine.lost
        covered = [number for record in page.records for number in range(record.first, record.last + 1)]
        assert covered == list(range(page.tail.oldest, page.tail.newest + 1))
    for record in page.records if page else ():
        if record.frames is not None:
            assert page is not None
            assert original.promised[path, page.tail.epoch, record.first] == record.frames
    last = engine.read_last(path, MOST, MOST)
    assert (last and last.records) == (page and page.records)
    try:
        (outcome,) = engine.commit([Append(path, b"new", 1, AMPLE)])
    except StoreError:
        return "lost"
    assert (path, outcome.epoch, outcome.first) not in original.promised
    again = engine.read(path, outcome.first - 1, MOST, MOST)
    assert again is not None
    assert [record.frames for record in again.records] == [b"new"]
    is_whole = page and page.tail.oldest == 1 and all(record.frames for record in page.records)
    return "whole" if is_whole and outcome.epoch == promised.epoch else "lost"


def flip(path: Path, bit: int) -> None:
    content = bytearray(path.read_bytes())
    content[bit // 8] ^= 1 << bit % 8
    path.write_bytes(content)


def cut(path: Path, size: int) -> None:
    with path.open("r+b") as file:
        file.truncate(size)


def places(size: int, *, is_all: bool) -> Iterator[int]:
    """Yield the bytes to damage: this run's share of all, or a few of each second page and of its header."""
    if is_all:
        first, step = steps(199 if size > PAGE else 1)
        yield from range(first, size, step)
        return
    for page in range(0, size, 2 * PAGE):
        yield from (place for place in (page, page + 9, page + 101, page + 3333, page + 7000) if place < size)


def damage_each(original: Original, suffix: str, to: Path, kind: str, *, is_all: bool) -> dict[str, int]:
    """Damage a file in one place after the other, and return how often it became what."""
    became = {"whole": 0, "lost": 0, "refused": 0}
    for place in places((original.folder / f"rooms.db{suffix}").stat().st_size, is_all=is_all):
        store = original.copy(to)
        damaged = Path(f"{store}{suffix}")
        if kind == "cut":
            cut(damaged, place)
        else:
            flip(damaged, place * 8 + place % 8)
        try:
            became[check(original, store)] += 1
        except BaseException:
            print(f"{kind} {suffix or 'file'} at byte {place}")
            raise
    return became


def test_a_copy_without_damage_is_whole(in_file: Original, in_wal: Original, quick_path: Path) -> None:
    for original in (in_file, in_wal):
        assert check(original, original.copy(quick_path / "copy")) == "whole"


def test_a_bit_of_the_file_is_turned(in_file: Original, quick_path: Path) -> None:
    became = damage_each(in_file, "", quick_path / "copy", "flip", is_all=False)
    assert became["lost"]
    assert became["refused"]


def test_the_file_is_cut(in_file: Original, quick_path: Path) -> None:
    became = damage_each(in_file, "", quick_path / "copy", "cut", is_all=False)
    assert became["whole"] <= 1  # nothing is left: an empty file is a new store


@pytest.mark.parametrize("kind", ["cut", "flip"])
def test_the_wal_is_damaged(in_wal: Original, quick_path: Path, kind: str) -> None:
    became = damage_each(in_wal, "-wal", quick_path / "copy", kind, is_all=False)
    assert became["lost"] > 10


@pytest.mark.patience(3000)
@pytest.mark.thorough
@pytest.mark.parametrize("kind", ["cut", "flip"])
@pytest.mark.parametrize("suffix", ["", "-wal", "-lock"])
def test_any_byte_may_be_damaged(in_file: Original, in_wal: Original, quick_path: Path, suffix: str, kind: str) -> None:
    damage_each(in_wal if suffix else in_file, suffix, quick_path / "copy", kind, is_all=True)


def test_a_large_file_is_read_around_its_damage(quick_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite_opening, "CHECKED_BYTES", 0)
    monkeypatch.setattr(sqlite_engine, "SWEEP_S", 1e9)
    with_damage = 0
    store = quick_path / "rooms.db"
    engine = SqliteEngine(store, SyncMode.NEVER, Clock())
    engine.commit([Append("/room/a", b"%d " % number * 300, 1, AMPLE) for number in range(1, 101)])
    engine.close()
    whole = store.read_bytes()
    for page in range(1, len(whole) // PAGE):
        store.write_bytes(whole[: page * PAGE] + bytes(PAGE) + whole[(page + 1) * PAGE :])
        try:
            engine = SqliteEngine(store, SyncMode.NEVER, Clock())
        except UsageError:
            continue
        found = engine.read("/room/a", 0, MOST, MOST)
        if found is not None:
            kept = [record for record in found.records if record.frames is not None]
            assert all(record.frames == b"%d " % record.first * 300 for record in kept)
            assert sum(record.messages for record in found.records) == 100
            with_damage += 0 < len(kept) < 100
        engine.close()
    assert with_damage > 10
