"""Tests for rawws/store/sqlite_engine.py: the behaviour of an engine in a file."""

from __future__ import annotations

import fcntl
import os
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from rawws.broadcast.log import History
from rawws.errors import UsageError
from rawws.store import sqlite_engine
from rawws.store.engine import StoreBroken, StoreError
from rawws.store.entries import Clear, GroupState, GroupWrite, Job, Outcome
from rawws.store.modes import SyncMode
from rawws.store.sqlite_engine import SqliteEngine
from rawws.store.sqlite_rows import query
from tests.store.stores import MOST, ROOM, Clock, append, message, read

WAL_BYTES = 256 * 1024


@pytest.fixture
def engine(quick_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SqliteEngine]:
    monkeypatch.setattr(sqlite_engine, "CHECKPOINT_BYTES", WAL_BYTES)
    opened = SqliteEngine(quick_path / "rooms.db", SyncMode.INTERVAL, Clock())
    yield opened
    opened.close()


def wal_bytes(engine: SqliteEngine) -> int:
    return Path(f"{engine.path}-wal").stat().st_size


def fill(engine: SqliteEngine, commits: int = 100) -> int:
    """Append to the store, and return the largest size of the WAL meanwhile."""
    largest = 0
    for _ in range(commits):
        append(engine, "x" * 5000)
        largest = max(largest, wal_bytes(engine))
    return largest


def test_its_description_is_its_path(engine: SqliteEngine) -> None:
    assert engine.description == str(engine.path)


def test_the_wal_is_bounded_under_a_steady_reader(engine: SqliteEngine) -> None:
    append(engine, "a")
    stop = threading.Event()

    def go_on_reading() -> None:
        while not stop.is_set():
            engine.read(ROOM, 0, 5, MOST)

    reader = threading.Thread(target=go_on_reading)
    reader.start()
    try:
        assert fill(engine) < 2 * WAL_BYTES
    finally:
        stop.set()
        reader.join()


def test_another_program_that_reads_holds_nobody(engine: SqliteEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    # A wait for the other program would last until the alarm.
    monkeypatch.setattr(sqlite_engine, "BUSY_MS", 3_600_000)
    engine._writer.execute("PRAGMA busy_timeout = 3600000")
    append(engine, "a")
    other = sqlite3.connect(f"file:{engine.path}?mode=ro", uri=True)
    other.execute("BEGIN")
    other.execute("SELECT count(*) FROM records").fetchall()
    assert fill(engine) > 2 * WAL_BYTES
    other.close()
    fill(engine)
    assert fill(engine, 10) < 2 * WAL_BYTES


def test_another_program_that_writes_is_an_error_that_passes(engine: SqliteEngine) -> None:
    engine._writer.execute("PRAGMA busy_timeout = 0")
    other = sqlite3.connect(engine.path)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreError, match=r"another program holds the store .* locked"):
        append(engine, "a")
    other.close()
    append(engine, "a")
    assert read(engine) == ["a"]


def test_nothing_of_a_commit_that_fails_is_there(engine: SqliteEngine) -> None:
    append(engine, "a")
    with pytest.raises(TypeError):
        engine.commit([message("b"), GroupWrite(ROOM, "sms", 1, (Job(None, 1, 0.0, ""),))])  # type: ignore[arg-type]
    assert read(engine) == ["a"]
    assert engine.groups() == []
    assert append(engine, "c")[0].first == 2


def test_a_failed_fsync_between_commits_breaks_the_store(engine: SqliteEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    append(engine, "a")

    def fail(_: int) -> None:
        raise OSError(5, os.strerror(5))

    monkeypatch.setattr(os, "fdatasync", fail)
    with pytest.raises(StoreBroken, match=r"an fsync of the store .* has failed \(Input/output error\)"):
        engine.sync()
    monkeypatch.undo()
    for call in (engine.sync, lambda: append(engine, "b")):
        with pytest.raises(StoreBroken, match="restart the server"):
            call()
    assert read(engine) == ["a"]  # readers live on


def test_the_disk_of_a_mac_is_asked_to_write(engine: SqliteEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    monkeypatch.setattr(fcntl, "F_FULLFSYNC", 51, raising=False)
    monkeypatch.setattr(fcntl, "fcntl", lambda _, command: asked.append(command))
    append(engine, "a")
    engine.sync()
    assert asked == [51]


def test_readers_of_a_closed_store_are_refused(engine: SqliteEngine) -> None:
    engine.close()
    for call in (lambda: engine.tail(ROOM), lambda: engine.read(ROOM, 0, 1, 1), engine.groups):
        with pytest.raises(StoreError, match="closed"):
            call()


def test_any_thread_may_read(engine: SqliteEngine) -> None:
    append(engine, "a", "b")
    found: list[list[str | None]] = []
    threads = [threading.Thread(target=lambda: found.append(read(engine))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [["a", "b"]] * 4


def test_a_numbers_end_begins_a_new_epoch(engine: SqliteEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rawws.store.sqlite_write.MOST_MESSAGES", 3)
    outcomes = append(engine, "a", "b", "c", "d")
    assert [outcome.first for outcome in outcomes] == [1, 2, 3, 1]
    assert outcomes[2].epoch != outcomes[3].epoch
    assert read(engine) == ["d"]


def test_the_number_of_a_room_is_used_again_when_all_are_used_up(
    engine: SqliteEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rawws.store.sqlite_write.MOST_ROOMS", 3)
    for path in ("/1", "/2", "/3"):
        append(engine, path, path=path)
    engine._writer.execute("DELETE FROM rooms WHERE path = '/2'")
    engine._rooms.clear()
    append(engine, "new", path="/4")
    assert read(engine, "/4") == ["new"]
    assert read(engine, "/3") == ["/3"]


def test_a_room_whose_row_is_damaged_begins_again(engine: SqliteEngine) -> None:
    (before,) = append(engine, "a")
    engine.commit([GroupWrite(ROOM, "sms", 1)])
    engine._writer.execute("UPDATE rooms SET newest = 5")
    engine._rooms.clear()
    assert engine.tail(ROOM) is None
    assert engine.groups() == []
    (after,) = append(engine, "b")
    assert after.epoch != before.epoch
    assert after.first == 1
    assert read(engine) == ["b"]


def test_a_damaged_group_begins_again(engine: SqliteEngine) -> None:
    jobs = (Job(1, 3, 9.0, "x"), Job(2, 1, 9.0, "y"))
    engine.commit([message("a"), message("b"), GroupWrite(ROOM, "sms", 2, jobs)])
    engine._writer.execute("UPDATE groups SET position = 1")
    assert engine.groups() == [GroupState(ROOM, "sms", 0, jobs)]


DAMAGED_JOBS = {
    "another number of tries": "UPDATE jobs SET jobs = replace(jobs, '[66,1,3,', '[66,1,5,')",
    "no JSON": "UPDATE jobs SET jobs = '['",
    "no text": "UPDATE jobs SET jobs = 5",
}


@pytest.mark.parametrize("sql", DAMAGED_JOBS.values(), ids=DAMAGED_JOBS)
def test_where_jobs_are_damaged_all_that_the_group_has_taken_there_are_due(engine: SqliteEngine, sql: str) -> None:
    engine.commit([message(str(number)) for number in range(70)])
    engine.commit([Clear(ROOM, 64), GroupWrite(ROOM, "sms", 68, (Job(66, 3, 9.0, "x"),))])
    engine._writer.execute(sql)
    untried = {number: Job(number, 0, 0.0, "") for number in range(65, 69)}
    assert engine.groups() == [GroupState(ROOM, "sms", 68, tuple(untried.values()))]
    engine.commit([GroupWrite(ROOM, "sms", 69, (Job(69, 1, 9.0, "y"),), (66,))])
    left = (untried[65], untried[67], untried[68], Job(69, 1, 9.0, "y"))
    assert engine.groups() == [GroupState(ROOM, "sms", 69, left)], "the rest of the block is sound again"


def test_messages_stay_where_it_is_not_known_which_jobs_are_finished(engine: SqliteEngine) -> None:
    few = History(messages=2, max_bytes=1 << 20)
    engine.commit([message(str(number), history=few) for number in range(70)])
    engine.commit([GroupWrite(ROOM, "sms", 0)])
    engine.commit([message("a", history=few), GroupWrite(ROOM, "sms", 70, (Job(70, 1, 9.0, "x"),))])
    engine._writer.execute("UPDATE jobs SET jobs = '', id = id & ~ 64")
    engine.commit([message("b", history=few)])
    assert engine.tail(ROOM)[1] == 70  # type: ignore[index]


def test_jobs_that_were_delivered_together_are_one_entry(engine: SqliteEngine) -> None:
    jobs = [Job(number, 1, 9.0, "x") for number in range(1, 101)] + [Job(101, 2, 9.0, "x")]
    engine.commit([message("a"), GroupWrite(ROOM, "sms", 101, tuple(jobs))])
    (stored,) = engine.groups()
    assert list(stored.jobs) == jobs
    engine.commit([GroupWrite(ROOM, "sms", 101, (), (10,))])
    texts = [row[0] for row in query(engine._writer, "SELECT jobs FROM jobs ORDER BY id")]
    assert texts == [b'[[1,9,1,9.0,"x"],[11,53,1,9.0,"x"]]', b'[[64,37,1,9.0,"x"],[101,1,2,9.0,"x"]]']
    engine.commit([GroupWrite(ROOM, "sms", 101, (), tuple(range(1, 64)))])
    assert query(engine._writer, "SELECT count(*) FROM jobs") == [(1,)]


def test_a_damaged_key_is_not_known(engine: SqliteEngine) -> None:
    engine.commit([message("a", once="k")])
    engine._writer.execute("UPDATE keys SET digest = 'other'")
    tail = engine.tail(ROOM)
    assert tail is not None
    assert engine.commit([message("a", once="k")])[0] == Outcome(tail.epoch, 2)


def test_a_wal_that_cannot_be_opened_is_told(quick_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.open

    def fail(path: str, flags: int, mode: int = 0o777) -> int:
        if str(path).endswith("-wal"):
            raise PermissionError(13, os.strerror(13))
        return real(path, flags, mode)

    monkeypatch.setattr(os, "open", fail)
    with pytest.raises(UsageError, match="-wal can't be opened: Permission denied"):
        SqliteEngine(quick_path / "rooms.db", SyncMode.INTERVAL)
    monkeypatch.undo()
    SqliteEngine(quick_path / "rooms.db", SyncMode.INTERVAL).close()


@pytest.mark.parametrize("is_replaced", [False, True])
def test_a_file_that_is_not_at_its_path_any_more_takes_nothing(engine: SqliteEngine, *, is_replaced: bool) -> None:
    append(engine, "a")
    moved = engine.path.rename(engine.path.with_name("moved.db"))
    if is_replaced:
        engine.path.touch()
    for _ in range(2):
        with pytest.raises(StoreBroken, match="was moved, deleted or replaced while it was in use; put it back"):
            append(engine, "b")
    assert read(engine) == ["a"]
    moved.replace(engine.path)


def test_limits_of_a_history_may_be_very_large(engine: SqliteEngine) -> None:
    append(engine, "a", "b", history=History(1 << 80, 1 << 80, 1e300))
    append(engine, "c", history=History(1 << 80, 1 << 80, float("inf")))
    assert read(engine) == ["a", "b", "c"]
