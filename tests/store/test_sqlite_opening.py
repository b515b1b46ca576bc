"""Tests for rawws/store/sqlite_opening.py and rawws/store/store_lock.py: a store that is opened, or refused."""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from rawws.errors import UsageError
from rawws.store import sqlite_opening, sqlite_schema, sqlite_upgrade
from rawws.store.checksums import checksum
from rawws.store.entries import GroupEnd, GroupState, GroupWrite, Job
from rawws.store.looking import StoreView
from rawws.store.modes import SyncMode
from rawws.store.sqlite_engine import SqliteEngine
from rawws.store.sqlite_read import find_room, read_groups
from rawws.store.sqlite_rows import bindable
from rawws.store.sqlite_schema import JOBS_TABLES, VERSION, row_id, schema
from rawws.store.store_lock import Mark, StoreLock
from tests.store.stores import MOST, ROOM, Place, append, message, read, records

OTHER_USER = 65534


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "rooms.db"


def refusal(path: Path) -> str:
    """Return the sentence that refuses a store."""
    with pytest.raises(UsageError) as caught:
        SqliteEngine(path, SyncMode.ALWAYS)
    sentence = str(caught.value)
    assert "\n" not in sentence
    return sentence.replace(str(path.parent), "DIR")


def make(path: Path, *texts: str, mode: SyncMode = SyncMode.ALWAYS) -> None:
    """Make a store, and close it."""
    with Place(path, mode).open() as engine:
        append(engine, *texts)


# Files


@pytest.mark.parametrize("is_there", [False, True], ids=["a new path", "an empty file"])
def test_a_store_is_made(path: Path, *, is_there: bool) -> None:
    if is_there:
        path.touch()
    make(path, "a")
    with Place(path).open() as engine:
        assert read(engine) == ["a"]


def test_a_store_is_one_file_besides_its_lock_when_it_is_closed(path: Path) -> None:
    make(path, "a")
    assert sorted(each.name for each in path.parent.iterdir()) == ["rooms.db", "rooms.db-lock"]


def test_a_person_can_look_into_it(path: Path) -> None:
    make(path, "a", "b")
    with sqlite3.connect(path) as connection:
        rows = connection.execute("SELECT path, first_id, messages, at, bytes FROM list").fetchall()
    connection.close()
    assert [(row[0], row[1].partition("-")[2], row[2], row[4]) for row in rows] == [
        (ROOM, "1", 1, 1),
        (ROOM, "2", 1, 1),
    ]
    assert rows[0][3] == "2023-11-14 22:13:20"


def test_a_directory_is_refused(path: Path) -> None:
    path.mkdir()
    assert (
        refusal(path)
        == "the store DIR/rooms.db is a directory; give the path of a file in it, such as DIR/rooms.db/rooms.db"
    )


def test_a_missing_directory_is_refused(tmp_path: Path) -> None:
    assert (
        refusal(tmp_path / "missing" / "rooms.db")
        == "there is no directory DIR for the store; make it, or give another path"
    )


@pytest.mark.parametrize("content", [b"hello\n" * 50, b"short", b"SQLite format 3\x00"], ids=["text", "short", "cut"])
def test_a_file_that_is_no_database_is_refused_and_left_alone(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    assert refusal(path) == (
        "DIR/rooms.db is not a store of rawws: it doesn't begin as a database of SQLite; give another path"
    )
    assert path.read_bytes() == content


def test_the_database_of_another_program_is_refused_and_left_alone(path: Path) -> None:
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE accounts (id INTEGER)")
    connection.commit()
    connection.close()
    before = path.read_bytes()
    assert refusal(path) == "DIR/rooms.db is a database of another program, and not a store of rawws; give another path"
    assert path.read_bytes() == before


def test_a_newer_format_is_refused_by_name(path: Path) -> None:
    make(path, "a")
    change(path, "PRAGMA user_version = 7")
    assert refusal(path) == (
        "the store DIR/rooms.db has format 7, and this rawws knows formats up to 2; use a newer rawws"
    )


# As the programs that wrote format 1 had it.
FORMAT_1_JOBS = """CREATE TABLE jobs (
    id INTEGER PRIMARY KEY, tries INTEGER NOT NULL, due REAL NOT NULL, lease TEXT NOT NULL, checksum BLOB NOT NULL
);"""
NUMBERS = list(map(str, range(70)))
JOBS = (Job(1, 3, 9.0, "x"), Job(2, 1, 9.0, "y"), Job(64, 0, 0.0, ""), Job(70, 1, 8.5, "\udc80"))


def make_format_1(path: Path) -> None:
    """Make a store of format 1 with some jobs."""
    with Place(path).open() as engine:
        append(engine, *map(str, range(70)))
        engine.commit([GroupWrite(ROOM, "sms", 70), GroupWrite(ROOM, "mail", 3)])
        assert isinstance(engine, SqliteEngine)
        room = find_room(engine._writer, ROOM)
        assert room is not None
        mail, sms = read_groups(engine._writer, room).values()
    assert sms.name == "sms", mail
    connection = sqlite3.connect(path)
    connection.execute("DROP TABLE jobs")
    connection.execute(FORMAT_1_JOBS)
    for number, tries, due, lease in JOBS:
        own = checksum("job", sms.id, sms.name, number, tries, due, lease)
        row = (row_id(sms.id, number), tries, due, bindable(lease), own)
        connection.execute("INSERT INTO jobs VALUES (?, ?, ?, ?, ?)", row)
    connection.commit()
    connection.executescript("DROP TABLE due; PRAGMA user_version = 1; PRAGMA auto_vacuum = NONE; VACUUM")
    connection.close()


@pytest.mark.parametrize(
    ("version", "digest"),
    [
        (1, "96e8a7f914c9528ffcb0ed39f378222174c77251274d3d8a976a5834d183eead"),
        (2, "310930a4a6d32430c3f645ae960ccf2008a25e0bb6e061c8e34dc1dc7e00ad34"),
    ],
)
def test_the_schema_of_a_format_never_changes(version: int, digest: str) -> None:
    # Files that have it exist. A change, even of a space, would have them refused as damaged: it needs a new format.
    assert sha256(repr(schema(version)).encode()).hexdigest() == digest


def test_a_store_of_format_1_is_changed_to_the_present_one(path: Path) -> None:
    make_format_1(path)
    change(path, "UPDATE jobs SET tries = 7 WHERE tries = 3")
    for _ in range(2):
        with Place(path).open() as engine:
            due = (Job(1, 0, 0.0, ""), *JOBS[1:])
            assert engine.groups() == [GroupState(ROOM, "mail", 3), GroupState(ROOM, "sms", 70, due)]
            assert read(engine) == list(map(str, range(70)))


def test_a_store_of_format_1_is_not_looked_into(path: Path) -> None:
    make_format_1(path)
    before = path.read_bytes()
    with pytest.raises(
        UsageError, match="has format 1, and is only read in format 2; a server of this version changes"
    ):
        StoreView(path)
    assert path.read_bytes() == before


def test_a_change_of_the_format_that_fails_changes_nothing(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_format_1(path)
    with monkeypatch.context() as patch:
        patch.setitem(JOBS_TABLES, VERSION, "CREATE TABLE rooms (id)")
        assert "table rooms already exists" in refusal(path)
    with Place(path).open() as engine:
        assert engine.groups()[1].jobs == JOBS


def test_a_format_that_never_was_is_damage(path: Path) -> None:
    make(path, "a")
    change(path, "PRAGMA user_version = 0")
    assert "its tables aren't those of a store" in refusal(path)


def change(path: Path, sql: str) -> None:
    connection = sqlite3.connect(path)
    connection.execute(sql)
    connection.commit()
    connection.close()


def test_a_damaged_file_is_refused(path: Path) -> None:
    make(path, *map(str, range(200)))
    content = bytearray(path.read_bytes())
    content[3 * 4096 : 3 * 4096 + 200] = bytes(200)
    path.write_bytes(content)
    sentence = refusal(path)
    assert sentence.startswith("the store DIR/rooms.db is damaged (")
    assert sentence.endswith("; restore a copy of it, or move it away to begin with an empty one")


@pytest.mark.parametrize("byte", [b"?", b"\xd4"], ids=["another name", "no text"])
def test_a_damaged_schema_is_refused(path: Path, byte: bytes) -> None:
    make(path, "a")
    content = path.read_bytes()
    path.write_bytes(content.replace(b"id INTEGER PRIMARY KEY, messages", b"i%b INTEGER PRIMARY KEY, messages" % byte))
    assert refusal(path).startswith("the store DIR/rooms.db is damaged (")


def test_tables_that_somebody_has_changed_are_refused(path: Path) -> None:
    make(path, "a")
    change(path, "ALTER TABLE jobs RENAME jobs TO leases")
    assert "is damaged (its tables aren't those of a store)" in refusal(path)


def test_a_store_without_its_own_row_is_refused(path: Path) -> None:
    make(path, "a")
    change(path, "DELETE FROM store")
    assert "is damaged (its table store can't be read)" in refusal(path)


def test_a_store_whose_file_is_missing_but_not_its_wal_is_refused(path: Path) -> None:
    with Place(path).open() as engine:
        append(engine, "a")
        shutil.copy(f"{path}-wal", f"{path}-copy")
    path.unlink()
    Path(f"{path}-copy").rename(f"{path}-wal")
    assert (
        refusal(path)
        == "the store DIR/rooms.db is missing, but not its rooms.db-wal; restore it, or move that file away"
    )


def test_a_store_that_another_program_has_locked_is_refused(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(path, "a")
    monkeypatch.setattr(sqlite_opening, "BUSY_S", 0.0)
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA locking_mode = EXCLUSIVE")
    connection.execute("DELETE FROM groups")
    connection.commit()
    assert (
        refusal(path) == "another program holds the store DIR/rooms.db locked, such as sqlite3 in a transaction; end it"
    )
    connection.close()


@pytest.mark.parametrize("what", ["directory", "file"])
def test_a_place_of_another_user_is_refused(path: Path, what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    make(path, "a")
    denied = path if what == "file" else path.parent
    denied.chmod(0o600)
    monkeypatch.setattr(os, "access", lambda each, _: each != denied)  # root may write everywhere
    begins = {
        "directory": "no files can be made in the directory DIR",
        "file": "the store DIR/rooms.db can't be written",
    }
    assert refusal(path) == (
        f"{begins[what]}: it belongs to user {os.geteuid()} with mode 0600, and this is user {os.geteuid()}; "
        "change its owner, or give another path"
    )
    denied.chmod(0o700)


def test_a_read_only_file_system_is_refused(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda *_: False)
    found = os.statvfs_result((4096, 4096, 1, 1, 1, 1, 1, 1, os.ST_RDONLY, 255))
    monkeypatch.setattr(os, "statvfs", lambda _: found)
    assert refusal(path) == (
        "no files can be made in the directory DIR: its file system is read-only; give a path on another one"
    )


# One process at a time


def test_a_second_process_is_refused_with_the_first_ones_number(path: Path) -> None:
    with Place(path).open() as engine:
        assert refusal(path) == (
            f"the store DIR/rooms.db is in use by process {os.getpid()}; stop that process, or give another path"
        )
        append(engine, "a")
        assert f"by process {os.getpid()};" in refusal(path)


def test_the_process_of_another_machine_is_named_with_it(path: Path) -> None:
    with Place(path).open():
        lock = Path(f"{path}-lock")
        lock.write_text("123 elsewhere and so on\n")
        assert "in use by process 123 on elsewhere;" in refusal(path)
        lock.write_text("?")
        assert "in use by another process;" in refusal(path)


HOLDER = """
import sys, time
from pathlib import Path
from rawws.store.modes import SyncMode
from rawws.store.sqlite_engine import SqliteEngine
from rawws.store.sqlite_read import find_room, read_groups
from rawws.store.sqlite_rows import bindable
from rawws.store.sqlite_schema import JOBS_TABLES, VERSION, row_id, schema
engine = SqliteEngine(Path(sys.argv[1]), SyncMode.INTERVAL)
print("open", flush=True)
time.sleep(3600)
"""


def test_a_killed_process_lets_go_of_its_store(path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", HOLDER, path], stdout=subprocess.PIPE) as holder:
        assert holder.stdout
        assert holder.stdout.readline() == b"open\n"
        assert f"in use by process {holder.pid};" in refusal(path)
        holder.kill()
        assert holder.wait() == -signal.SIGKILL
    make(path, "a")


def test_a_lock_file_that_cannot_be_made_is_told(path: Path) -> None:
    Path(f"{path}-lock").mkdir()
    assert refusal(path) == "the file DIR/rooms.db-lock can't be made or written: Is a directory"


# An end that is missing


def test_an_older_copy_is_noticed_and_its_numbers_are_not_given_again(path: Path) -> None:
    make(path, "a")
    shutil.copy(path, f"{path}-copy")
    make(path, "b", "c")
    Path(f"{path}-copy").replace(path)
    with Place(path).open() as engine:
        assert isinstance(engine, SqliteEngine)
        assert engine.lost == 2
        assert append(engine, "d")[0].first == 4
        assert [(each.first, each.messages, each.frames) for each in records(engine.read(ROOM, 0, MOST, MOST))] == [
            (1, 1, b"a"),
            (2, 2, None),
            (4, 1, b"d"),
        ]
    with Place(path).open() as engine:
        assert isinstance(engine, SqliteEngine)
        assert engine.lost == 0


def test_a_store_that_was_made_anew_has_lost_nothing(path: Path) -> None:
    make(path, "a", "b")
    path.unlink()
    with Place(path).open() as engine:
        assert isinstance(engine, SqliteEngine)
        assert engine.lost == 0
        assert append(engine, "a")[0].first == 1


@pytest.mark.parametrize(("mode", "is_behind"), [(SyncMode.ALWAYS, False), (SyncMode.INTERVAL, True)])
def test_the_end_of_the_machine_may_have_lost_what_was_not_synced(
    path: Path, mode: SyncMode, *, is_behind: bool
) -> None:
    make(path, "a", mode=mode)
    lock = StoreLock.take(path)
    assert lock.before is not None
    assert lock.before.is_closed
    lock.write(Mark(lock.before.identity, lock.before.commits, lock.before.messages, "another-boot", mode.value))
    lock.release()
    with Place(path).open() as engine:
        assert isinstance(engine, SqliteEngine)
        assert bool(engine.lost) == is_behind
        assert (append(engine, "b")[0].first == 2) != is_behind


def test_a_damaged_mark_is_none(path: Path) -> None:
    make(path, "a")
    lock = Path(f"{path}-lock")
    lock.write_text(lock.read_text().replace("always", "interval"))
    taken = StoreLock.take(path)
    assert taken.before is None
    taken.release()


# Size


@pytest.mark.thorough
def test_a_large_history_opens_quickly(path: Path) -> None:
    with Place(path, SyncMode.NEVER).open() as engine:
        paths = [f"/room/{number}" for number in range(1000)]
        for _ in range(100):
            engine.commit([message("x" * 200, each) for each in paths])
        engine.commit([GroupWrite(ROOM, "sms", 0)])
    began = time.process_time()
    with Place(path).open() as engine:
        took = time.process_time() - began
        assert len(read(engine, paths[7])) == 100
    assert took < 2


# An older format


def pragma(path: Path, name: str) -> int:
    connection = sqlite3.connect(path)
    value: int = connection.execute(f"PRAGMA {name}").fetchone()[0]
    connection.close()
    return value


@pytest.mark.parametrize("is_large", [False, True], ids=["small", "large"])
def test_a_store_of_an_older_format_becomes_one_of_this(
    path: Path, monkeypatch: pytest.MonkeyPatch, *, is_large: bool
) -> None:
    make_format_1(path)
    if is_large:
        monkeypatch.setattr(sqlite_opening, "CHECKED_BYTES", 0)
    for text in "cd":
        with Place(path).open() as engine:
            append(engine, text)
            while engine.tend():
                pass
            assert read(engine)[:71] == [*NUMBERS, "c"]
            assert engine.groups()[1].jobs == JOBS
    assert pragma(path, "user_version") == 2
    assert pragma(path, "auto_vacuum") == (0 if is_large else 2)


def test_old_messages_in_an_older_format_go(path: Path) -> None:
    make_format_1(path)
    place = Place(path)
    place.clock.now += 2e9
    with place.open() as engine:
        engine.commit([GroupEnd(ROOM, "sms"), GroupEnd(ROOM, "mail")])
        place.clock.now += 1
        engine.commit([])
        assert read(engine) == []


def test_a_store_that_has_no_space_to_be_written_anew_stays_as_it_was(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_format_1(path)

    def connect(path: Path, **options: Any) -> sqlite3.Connection:
        connection = sqlite_schema.connect(path, **options)
        connection.execute("PRAGMA max_page_count = 1")  # at least as many as there are: no more
        connection.execute("PRAGMA cache_size = 2")
        return connection

    def upgrade(connection: sqlite3.Connection) -> None:
        connection.execute("PRAGMA max_page_count = 100")
        sqlite_upgrade.upgrade(connection)
        connection.execute("PRAGMA max_page_count = 1")

    monkeypatch.setattr(sqlite_opening, "upgrade", upgrade)
    monkeypatch.setattr(sqlite_opening, "connect", connect)
    with Place(path).open() as engine:
        assert read(engine) == NUMBERS
    assert pragma(path, "user_version") == 2
    assert pragma(path, "auto_vacuum") == 0


def test_the_tables_of_another_format_are_refused(path: Path) -> None:
    make(path, "a")
    change(path, "PRAGMA user_version = 1")
    assert "is damaged (its tables aren't those of a store)" in refusal(path)


def test_an_upgrade_may_be_killed_at_any_time(path: Path) -> None:
    make_format_1(path)
    copy = path.with_name("copy.db")
    for after_ms in range(0, 200, 20):
        for suffix in ("", "-lock"):
            shutil.copy(f"{path}{suffix}", f"{copy}{suffix}")
        for suffix in ("-wal", "-shm"):
            Path(f"{copy}{suffix}").unlink(missing_ok=True)
        child = os.fork()
        if not child:
            with suppress(BaseException):
                signal.signal(signal.SIGALRM, signal.SIG_DFL)  # ends the process at once
                signal.setitimer(signal.ITIMER_REAL, after_ms / 1000 + 1e-4)
                SqliteEngine(copy, SyncMode.ALWAYS)
            os._exit(0)
        os.waitpid(child, 0)
        with Place(copy).open() as engine:
            assert read(engine) == NUMBERS
