"""The bounds of a store in a file: its rooms, its bytes, its memory, and the space that it gives back."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from rawws.broadcast.idempotency import KEPT_S, MAX_KEYS
from rawws.broadcast.log import History
from rawws.limits import MIB
from rawws.store import known_rooms, sqlite_engine
from rawws.store.engine import StoreError, StoreLimit, StoreUnfit
from rawws.store.entries import Append, Clear, GroupWrite, Job, Keep
from rawws.store.file_bounds import LEAST_FREE_PAGES, PAGE_BYTES
from rawws.store.modes import SyncMode
from rawws.store.retention import CROWDED_AFTER_S, FORGOTTEN_AFTER_S, LOOK_AGAIN_S, RETURN_S
from rawws.store.sqlite_engine import SqliteEngine
from tests.store.stores import AMPLE, MOST, ROOM, Clock, append, message, read
from tests.traced_memory import traced_memory

LIMIT_BYTES = 8 * MIB
SHORT = History(messages=100_000, max_bytes=1 << 40, max_age_s=60.0)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def engine(quick_path: Path, clock: Clock) -> Iterator[SqliteEngine]:
    opened = SqliteEngine(quick_path / "rooms.db", SyncMode.INTERVAL, clock)
    yield opened
    opened.close()


@pytest.fixture
def bounded_engine(quick_path: Path, clock: Clock) -> Iterator[SqliteEngine]:
    opened = SqliteEngine(quick_path / "bounded.db", SyncMode.INTERVAL, clock, most_bytes=LIMIT_BYTES)
    yield opened
    opened.close()


def tend(engine: SqliteEngine) -> int:
    """Tend a store until there is nothing more to do, and return how often there was."""
    count = 0
    while engine.tend():
        count += 1
    return count


def rows(engine: SqliteEngine, table: str) -> int:
    count: int = engine._writer.execute(f"SELECT count(*) FROM {table}").fetchone()[0]
    return count


# Rooms


def test_no_room_is_made_beyond_their_number(engine: SqliteEngine) -> None:
    entries = [Append(f"/{number % 3}", b"x", 1, AMPLE, most_rooms=2) for number in range(6)]
    assert [outcome.is_refused for outcome in engine.commit(entries)] == [False, False, True] * 2
    assert engine.usage.rooms == rows(engine, "rooms") == 2
    assert engine.tail("/2") is None
    assert not engine.commit([message("x", "/2")])[0].is_refused  # without a bound


def test_rooms_are_counted_over_a_restart_and_when_they_are_forgotten(quick_path: Path, clock: Clock) -> None:
    for _ in range(2):
        engine = SqliteEngine(quick_path / "rooms.db", SyncMode.INTERVAL, clock)
        engine.commit([message("x", f"/{number}", history=History(0)) for number in range(300)])
        assert engine.usage.rooms == 300
        engine.close()
    engine = SqliteEngine(quick_path / "rooms.db", SyncMode.INTERVAL, clock)
    engine.commit([message("x", "/kept")])
    clock.now += FORGOTTEN_AFTER_S
    tend(engine)
    assert engine.usage.rooms == rows(engine, "rooms") == rows(engine, "due") == 1
    engine.close()


def test_rooms_go_as_fast_as_they_are_made(engine: SqliteEngine, clock: Clock) -> None:
    for number in range(20):
        engine.commit([message("x", f"/{number}/{each}", history=SHORT) for each in range(300)])
        clock.now += 60.0
    assert rows(engine, "records") < 1500  # of 6,000


def test_old_messages_go_by_their_time_and_not_by_their_place(engine: SqliteEngine, clock: Clock) -> None:
    engine.commit([message("x", f"/long/{number}") for number in range(1000)])
    engine.commit([message("x", f"/short/{number}", history=SHORT) for number in range(50)])
    clock.now += 60.0
    engine.commit([])
    assert rows(engine, "records") == 1000
    assert tend(engine) == 0


def test_old_messages_that_a_group_needs_hold_up_no_others(engine: SqliteEngine, clock: Clock) -> None:
    most = sqlite_engine.SWEPT_ROOMS
    for number in range(2 * most):
        engine.commit([GroupWrite(f"/held/{number}", "g", 0), message("x", f"/held/{number}", history=SHORT)])
    engine.commit([message("x", "/last", history=SHORT)])
    clock.now += 60.0
    for _ in range(3):
        clock.now += 1.0
        engine.commit([])
    assert read(engine, "/last") == []
    assert rows(engine, "records") == 2 * most
    engine.commit([GroupWrite("/held/7", "g", 1)])
    assert rows(engine, "records") == 2 * most - 1


def test_a_room_that_somebody_uses_is_not_forgotten(engine: SqliteEngine, clock: Clock) -> None:
    (first,) = append(engine, "a", history=History(0))
    for _ in range(3):
        clock.now += FORGOTTEN_AFTER_S * 0.75
        engine.commit([Keep(ROOM), Keep("/unknown")])
    assert engine.tail("/unknown") is None
    tail = engine.tail(ROOM)
    assert tail is not None
    assert (tail.epoch, tail.newest) == (first.epoch, 1)


def test_readers_have_time_to_return_before_a_room_is_forgotten(quick_path: Path, clock: Clock) -> None:
    engine = SqliteEngine(quick_path / "rooms.db", SyncMode.INTERVAL, clock)
    (first,) = append(engine, "a", history=History(0))
    engine.close()
    clock.now += 10 * FORGOTTEN_AFTER_S
    engine = SqliteEngine(quick_path / "rooms.db", SyncMode.INTERVAL, clock)
    clock.now += RETURN_S - 1
    tend(engine)
    tail = engine.tail(ROOM)
    assert tail is not None
    assert tail.epoch == first.epoch
    clock.now += 61
    tend(engine)
    assert engine.tail(ROOM) is None
    engine.close()


def test_a_room_that_was_forgotten_goes_on_for_those_who_know_it(engine: SqliteEngine) -> None:
    known = ("0a1b2c3d", 41)
    outcomes = engine.commit([Append(ROOM, b"x", 1, AMPLE, known=known), Append(ROOM, b"y", 1, AMPLE, known=known)])
    assert [(each.epoch, each.first) for each in outcomes] == [("0a1b2c3d", 42), ("0a1b2c3d", 43)]
    assert engine.tail(ROOM) == ("0a1b2c3d", 42, 43)
    assert read(engine) == ["x", "y"]


def test_a_room_whose_row_is_damaged_does_not_go_on(engine: SqliteEngine) -> None:
    (first,) = append(engine, "a")
    engine._writer.execute("UPDATE rooms SET newest = 5")
    engine._rooms.clear()
    (after,) = engine.commit([Append(ROOM, b"x", 1, AMPLE, known=(first.epoch, 1))])
    assert after.epoch != first.epoch
    assert engine.usage.rooms == rows(engine, "rooms") == 1


def test_a_damaged_room_holds_up_no_others(engine: SqliteEngine, clock: Clock) -> None:
    for path in ("/a", "/b"):
        append(engine, "x", path=path, history=SHORT)
    engine._writer.execute("UPDATE rooms SET newest = 5 WHERE path = '/a'")
    engine._rooms.clear()
    clock.now += 60.0
    assert tend(engine) == 1
    assert rows(engine, "records") == 1
    assert rows(engine, "due") == 1


# Idempotency-Keys


def test_the_cost_of_a_commit_does_not_grow_with_the_keys_of_its_rooms(engine: SqliteEngine, clock: Clock) -> None:
    def steps_of(path: str) -> int:
        steps = 0

        def count() -> int:
            nonlocal steps
            steps += 1
            return 0

        clock.now += 0.001
        engine._writer.set_progress_handler(count, 1)
        engine.commit([message("x", path)])
        engine._writer.set_progress_handler(None, 1)
        return steps

    engine.commit([message("x", "/few", once="k"), message("x", "/many", once="k")])
    engine.commit([message("x", "/many", once=str(number)) for number in range(MAX_KEYS + 100)])
    steps_of("/few")
    assert steps_of("/many") < 2 * steps_of("/few")


def test_keys_go_when_they_are_too_many_or_too_old(engine: SqliteEngine, clock: Clock) -> None:
    for start in range(0, 3 * MAX_KEYS, 500):
        engine.commit([message("x", once=str(start + number), history=SHORT) for number in range(500)])
    assert rows(engine, "keys") == MAX_KEYS
    engine._rooms.clear()  # as after a restart: they are counted again
    engine.commit([message("x", once=f"more {number}") for number in range(10)])
    assert rows(engine, "keys") == MAX_KEYS
    clock.now += KEPT_S
    tend(engine)
    assert rows(engine, "keys") == 0


# Bytes


def fill(engine: SqliteEngine, prefix: str = "", size: int = 40_000) -> int:
    """Append messages until the store is short of space, and return how many."""
    for number in range(1000):
        if engine.shortage is not None:
            return number
        append(engine, "x" * size, path=f"/{prefix}{number}", history=SHORT)
    raise AssertionError("the store has no limit")


@pytest.mark.parametrize("bound", ["bytes", "rooms"])
def test_rooms_of_which_nothing_is_left_keep_others_out_for_minutes_only(
    quick_path: Path, clock: Clock, bound: str
) -> None:
    engine = SqliteEngine(quick_path / "rooms.db", SyncMode.NEVER, clock, most_bytes=LIMIT_BYTES)

    def make_room(path: str) -> bool:
        entry = Append(path, b"x", 1, History(0), most_rooms=600 if bound == "rooms" else None)
        return engine.commit([entry])[0].is_refused or engine.shortage is not None

    clock.now += RETURN_S
    count = next(number for number in range(10_000) if make_room(f"/{number}/{'long' * 2000 * (bound == 'bytes')}"))
    clock.now += CROWDED_AFTER_S - 1
    engine.commit([message("x", "/used", history=History(0)), message("x", "/with a message")])
    tend(engine)
    assert make_room("/more")
    assert engine.usage.rooms >= count
    clock.now += LOOK_AGAIN_S + 1
    tend(engine)
    assert engine.shortage is None
    assert not make_room("/more")
    assert engine.usage.rooms == rows(engine, "rooms") == 3
    assert rows(engine, "due") == 3
    engine.close()


def append_without_waiting(engine: SqliteEngine) -> None:
    """Append messages for a while, as those do who don't wait."""
    for number in range(1000):
        append(engine, "x" * 40_000, path=f"/{number}", history=SHORT)


def test_a_file_has_a_limit_and_recovers_when_rooms_have_forgotten(bounded_engine: SqliteEngine, clock: Clock) -> None:
    for turn in range(3):
        assert fill(bounded_engine, f"{turn}/") > 100
        assert isinstance(bounded_engine.shortage, StoreLimit)
        assert f"as many bytes as it may (--store-bytes {LIMIT_BYTES})" in str(bounded_engine.shortage)
        usage = bounded_engine.usage
        assert usage.used_bytes <= bounded_engine.path.stat().st_size + MIB <= LIMIT_BYTES + MIB
        assert usage.most_bytes == LIMIT_BYTES
        clock.now += 60.0
        tend(bounded_engine)
        assert bounded_engine.shortage is None


def test_groups_go_on_while_a_store_is_short_of_space(bounded_engine: SqliteEngine) -> None:
    none = History(0)
    bounded_engine.commit([GroupWrite(ROOM, "g", 0)])
    count = 0
    while bounded_engine.shortage is None:
        append(bounded_engine, "x" * 40_000, history=none)
        count += 1
    for number in range(1, count + 1):
        bounded_engine.commit([GroupWrite(ROOM, "g", number, (Job(number, 1, 0.0, "lease"),))])
        bounded_engine.commit([GroupWrite(ROOM, "g", number, (), (number,))])
    assert bounded_engine.shortage is None
    assert read(bounded_engine) == []


def test_a_full_file_undoes_a_commit_and_is_made_smaller_all_the_same(
    bounded_engine: SqliteEngine, clock: Clock
) -> None:
    with pytest.raises(StoreLimit, match=f"--store-bytes {LIMIT_BYTES}"):
        append_without_waiting(bounded_engine)
    assert bounded_engine.path.stat().st_size <= LIMIT_BYTES
    with pytest.raises(StoreLimit):
        append(bounded_engine, "x" * 40_000, path="/more")
    clock.now += 60.0
    tend(bounded_engine)
    append(bounded_engine, "x" * 40_000, path="/more")
    bounded_engine._bound_file(0)
    assert bounded_engine._pages.all <= LIMIT_BYTES // PAGE_BYTES


def test_messages_leave_space_for_groups(bounded_engine: SqliteEngine) -> None:
    """However many publishers there are, what they have sent at once doesn't keep groups from making space."""
    none = History(0)
    bounded_engine.commit([GroupWrite(ROOM, "g", 0)])
    with pytest.raises(StoreLimit):
        append(bounded_engine, *["x" * 40_000] * 1000, history=none)
    newest = len(read(bounded_engine))
    for number in range(1, newest):
        jobs = tuple(Job(each, 1, 0.0, "lease " * 20) for each in range(number, newest + 1))
        dead = message("x" * 40_100, path=f"{ROOM}.g.dead", history=none)
        bounded_engine.commit([dead, GroupWrite(ROOM, "g", newest, jobs, (number,))])
    assert bounded_engine.shortage is None
    append(bounded_engine, "x" * 40_000, history=none)


def test_a_message_that_can_never_be_stored_is_named(bounded_engine: SqliteEngine) -> None:
    with pytest.raises(StoreUnfit, match=r"too large for its store: 8000000 bytes, of 8388608 \(--store-bytes\)"):
        bounded_engine.commit([message("a"), message("x" * 8_000_000)])
    assert bounded_engine.tail(ROOM) is None
    append(bounded_engine, "a")


def test_a_file_that_is_larger_than_its_limit_takes_nothing_more_and_becomes_smaller(
    engine: SqliteEngine, clock: Clock
) -> None:
    for number in range(300):
        append(engine, "x" * 40_000, path=f"/{number}", history=SHORT)
    engine.close()
    again = SqliteEngine(engine.path, SyncMode.INTERVAL, clock, most_bytes=LIMIT_BYTES)
    assert again.shortage is not None
    with pytest.raises(StoreLimit):
        append_without_waiting(again)
    clock.now += 60.0
    tend(again)
    assert again.shortage is None
    assert again.path.stat().st_size < LIMIT_BYTES
    append(again, "x")
    again.close()


def test_the_log_of_a_store_that_another_program_reads_is_bounded(bounded_engine: SqliteEngine) -> None:
    append(bounded_engine, "a")
    other = sqlite3.connect(f"file:{bounded_engine.path}?mode=ro", uri=True)
    other.execute("BEGIN")
    other.execute("SELECT count(*) FROM records").fetchall()
    few = History(messages=10)
    count = 0
    while bounded_engine.shortage is None:
        append(bounded_engine, "x" * 40_000, history=few)
        count += 1
    assert count > 100
    assert Path(f"{bounded_engine.path}-wal").stat().st_size < 20 * MIB
    other.close()
    tend(bounded_engine)
    assert bounded_engine.shortage is None
    assert Path(f"{bounded_engine.path}-wal").stat().st_size == 0


# Free space


def test_a_file_gives_free_space_back_in_small_steps(engine: SqliteEngine, clock: Clock) -> None:
    for number in range(500):
        append(engine, "x" * 40_000, path=f"/{number}", history=SHORT)
    before = engine.path.stat().st_size
    append(engine, "kept", path="/kept")
    clock.now += 60.0
    assert 15 < tend(engine) < 60
    assert engine.path.stat().st_size < before // 10
    assert engine._pages.free <= LEAST_FREE_PAGES
    assert read(engine, "/kept") == ["kept"]
    assert engine.usage.file_bytes == engine.path.stat().st_size
    assert engine._writer.execute("PRAGMA integrity_check").fetchone()[0] == b"ok"


def test_readers_go_on_while_a_file_becomes_smaller(engine: SqliteEngine, clock: Clock) -> None:
    engine.commit([message(f"{number} " * 500, "/kept") for number in range(500)])
    for number in range(300):
        append(engine, "x" * 40_000, path=f"/{number}", history=SHORT)
    engine.commit([message(f"{number} " * 500, "/kept too") for number in range(500)])
    expected = [f"{number} " * 500 for number in range(500)]
    stop, wrong = threading.Event(), 0

    def go_on_reading() -> None:
        nonlocal wrong
        while not stop.is_set():
            wrong += read(engine, "/kept too") != expected

    reader = threading.Thread(target=go_on_reading)
    reader.start()
    clock.now += 60.0
    try:
        tend(engine)
    finally:
        stop.set()
        reader.join()
    assert wrong == 0
    assert read(engine, "/kept") == expected


def test_tending_a_store_without_anything_to_do_writes_nothing(engine: SqliteEngine) -> None:
    append(engine, "a")
    tend(engine)
    before = Path(f"{engine.path}-wal").read_bytes()
    assert tend(engine) == 0
    assert Path(f"{engine.path}-wal").read_bytes() == before


def test_a_store_that_another_program_has_locked_is_tended_later(engine: SqliteEngine, clock: Clock) -> None:
    append(engine, "a", history=SHORT)
    clock.now += 60.0
    engine._writer.execute("PRAGMA busy_timeout = 0")
    other = sqlite3.connect(engine.path)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreError, match="locked"):
        engine.tend()
    other.close()
    assert tend(engine) == 1
    assert read(engine) == []


# Memory


@pytest.mark.parametrize("records", [0, 1, 40])
def test_rooms_that_are_known_count_as_the_memory_that_they_use(quick_path: Path, clock: Clock, records: int) -> None:
    engine = SqliteEngine(quick_path / "rooms.db", SyncMode.NEVER, clock)
    history = AMPLE._replace(messages=max(records, 1))
    for _ in range(records):
        engine.commit([message("x", f"/{number}", history=history) for number in range(100)])
        clock.now += 0.01
    engine._rooms.clear()
    with traced_memory() as count:
        for number in range(100):
            engine.commit([message("x", f"/{number}", history=history)])
        used, _ = count()
    assert used / 1.5 < engine.held_bytes < 1.5 * used
    engine.close()


@pytest.mark.parametrize(("most_rooms", "most_bytes"), [(10, 1 << 40), (1 << 40, 20_000)])
def test_the_memory_of_known_rooms_is_bounded(
    engine: SqliteEngine, monkeypatch: pytest.MonkeyPatch, most_rooms: int, most_bytes: int
) -> None:
    monkeypatch.setattr(known_rooms, "MOST_ROOMS", most_rooms)
    monkeypatch.setattr(known_rooms, "MOST_BYTES", most_bytes)
    for _ in range(2):
        # Within a commit a room is one object, also if there are very many between two of its messages.
        engine.commit([message(f"{number}", f"/{number % 100}") for number in range(200)])
        assert 0 < len(engine._rooms) < 20
        assert 0 < engine.held_bytes < 30_000
    assert read(engine, "/7") == ["7", "107"] * 2
    engine.commit([Clear(f"/{number}", MOST) for number in range(100)])
    assert read(engine, "/7") == []
