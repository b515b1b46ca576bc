"""The files of a store: who may read them, and links where files are expected."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path

import pytest

from rawws import UsageError
from rawws.broadcast.log import History
from rawws.store import retention, sqlite_engine
from rawws.store.modes import SyncMode
from rawws.store.sqlite_engine import SqliteEngine
from tests.store.stores import Clock, append, message, read


def open_store(path: Path) -> SqliteEngine:
    return SqliteEngine(path, SyncMode.INTERVAL)


def test_nobody_else_may_read_the_files_of_a_new_store(quick_path: Path) -> None:
    before = os.umask(0o000)
    try:
        engine = open_store(quick_path / "rooms.db")
        append(engine, "secret")
        modes = {each.name: each.stat().st_mode & 0o777 for each in quick_path.iterdir()}
        engine.close()
    finally:
        os.umask(before)
    assert modes == dict.fromkeys(("rooms.db", "rooms.db-wal", "rooms.db-shm", "rooms.db-lock"), 0o600)


def test_a_store_keeps_the_mode_that_its_owner_has_given_it(quick_path: Path) -> None:
    path = quick_path / "rooms.db"
    open_store(path).close()
    path.chmod(0o640)
    engine = open_store(path)
    append(engine, "for the group")
    assert path.stat().st_mode & 0o777 == Path(f"{path}-wal").stat().st_mode & 0o777 == 0o640
    engine.close()


def test_two_links_to_one_store_are_one_store(quick_path: Path) -> None:
    (quick_path / "data").mkdir()
    for name in ("one.db", "two.db"):
        (quick_path / name).symlink_to(quick_path / "data" / "rooms.db")
    engine = open_store(quick_path / "one.db")
    append(engine, "hi")
    with pytest.raises(UsageError, match=f"in use by process {os.getpid()}"):
        open_store(quick_path / "two.db")
    append(engine, "there")
    engine.close()
    engine = open_store(quick_path / "two.db")
    assert read(engine) == ["hi", "there"]
    engine.close()


def test_a_link_in_place_of_the_lock_is_not_followed(quick_path: Path) -> None:
    """Where others may make files, one of them could have another file overwritten."""
    victim = quick_path / "victim"
    victim.write_text("precious")
    (quick_path / "rooms.db-lock").symlink_to(victim)
    with pytest.raises(UsageError, match=r"rooms\.db-lock can't be made or written: .*symbolic links"):
        open_store(quick_path / "rooms.db")
    assert victim.read_text() == "precious"


def test_an_entry_that_is_too_large_for_sqlite_is_no_trouble_of_the_disk(quick_path: Path) -> None:
    """It must not be tried for ever, with all others behind it. The committer leaves it out."""
    engine = open_store(quick_path / "rooms.db")
    engine._writer.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, 1000)
    with pytest.raises(sqlite3.DataError, match="too big"):
        engine.commit([message("small"), message("x" * 2000)])
    assert read(engine, after=0) == [] if engine.tail("/room/pay") else True
    append(engine, "small")
    assert read(engine) == ["small"]
    engine.close()


def test_a_commit_is_not_undone_by_what_fails_after_it(quick_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise it would be carried out again."""
    engine = open_store(quick_path / "rooms.db")

    def fail(_: int) -> os.stat_result:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fstat", fail)
        assert append(engine, "one")[0].first == 1
    assert append(engine, "two")[0].first == 2
    engine.close()


def test_rooms_cannot_be_made_faster_than_they_are_forgotten(quick_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Strangers may publish once each in rooms of any path."""
    monkeypatch.setattr(sqlite_engine, "SWEPT_ROOMS", 1)
    monkeypatch.setattr(sqlite_engine, "RETURN_S", 0)
    for module in (sqlite_engine, retention):
        monkeypatch.setattr(module, "FORGOTTEN_AFTER_S", 20)
    clock, history = Clock(), History(10, 1000, 10.0)
    engine = SqliteEngine(quick_path / "rooms.db", SyncMode.NEVER, clock)
    for second in range(200):
        clock.now += 1
        engine.commit([message("hi", f"/{second}-{number}", history=history) for number in range(5)])
    (rooms,) = engine._reader.execute("SELECT count(*) FROM rooms").fetchone()
    engine.close()
    assert rooms < 5 * 80  # of 1000


def test_a_forked_child_does_not_keep_a_store_locked(quick_path: Path) -> None:
    engine = open_store(quick_path / "rooms.db")
    rest, end = os.pipe()
    child = os.fork()
    if not child:
        os.close(end)
        os.read(rest, 1)  # until the parent closes its end
        os._exit(0)
    os.close(rest)
    try:
        engine.close()
        open_store(quick_path / "rooms.db").close()
    finally:
        os.close(end)
        os.waitpid(child, 0)
