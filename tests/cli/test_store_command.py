"""``rawws store``: what it shows of a store, whole or damaged, and its exit status."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

import rawws.cli
from rawws.store.entries import Append, GroupWrite, Job
from rawws.store.modes import SyncMode
from rawws.store.sqlite_engine import SqliteEngine
from rawws.wire.frames import Opcode, encode_frame
from tests.store.stores import AMPLE, Clock

ROOM = "/room/pay"
AT = "2023-11-14 22:13:20 UTC"


def frame(text: str) -> bytes:
    return encode_frame(Opcode.TEXT, text.encode())


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "rooms.db"


@pytest.fixture
def engine(path: Path) -> Iterator[SqliteEngine]:
    """A store that a server has open."""
    opened = SqliteEngine(path, SyncMode.ALWAYS, Clock())
    opened.commit(
        [
            Append(ROOM, frame("paid 1") + frame("paid\n2"), 2, AMPLE, "k"),
            Append(ROOM, encode_frame(Opcode.BINARY, bytes(range(40))), 1, AMPLE),
            Append(ROOM, frame("x" * 300), 1, AMPLE),
            Append("/room/b", frame("b"), 1, AMPLE),
            GroupWrite(ROOM, "sms", 2, (Job(1, 1, 0.0, "worker"), Job(2, 2, 9.0, ""))),
            GroupWrite("/room/b", "done", 1),
        ]
    )
    yield opened
    opened.close()


def epoch(engine: SqliteEngine, path: str = ROOM) -> str:
    tail = engine.tail(path)
    assert tail is not None
    return tail.epoch


def look(capsys: pytest.CaptureFixture[str], path: Path, *more: str) -> tuple[int, list[str], str]:
    status = rawws.cli.main(["store", str(path), *more])
    said = capsys.readouterr()
    return status, said.out.splitlines(), said.err.replace(str(path.parent), "DIR")


def overview(engine: SqliteEngine) -> list[str]:
    return [
        f"/room/b: 1 message, 3 bytes; the newest is {epoch(engine, '/room/b')}-1, last used {AT}",
        "    group done: 0 waiting, 0 leased",
        f"{ROOM}: 4 messages, 362 bytes; the newest is {epoch(engine)}-4, last used {AT}",
        f"    group sms: 3 waiting, 1 leased; the oldest is {epoch(engine)}-1",
    ]


def test_it_lists_the_rooms_and_groups_of_a_running_server(
    capsys: pytest.CaptureFixture[str], engine: SqliteEngine, path: Path
) -> None:
    assert look(capsys, path) == (0, overview(engine), "")
    assert look(capsys, path, "--check") == (0, overview(engine), "")


def test_it_makes_no_files_beside_a_closed_store(
    capsys: pytest.CaptureFixture[str], engine: SqliteEngine, path: Path
) -> None:
    expected = overview(engine)
    engine.close()
    before = sorted(os.listdir(path.parent))
    assert look(capsys, path) == (0, expected, "")
    assert sorted(os.listdir(path.parent)) == before


def test_it_shows_the_messages_of_a_room(capsys: pytest.CaptureFixture[str], engine: SqliteEngine, path: Path) -> None:
    first = f"{epoch(engine)}-"
    lines = [
        f"{first}1 {AT} key 'k' TEXT, 6 bytes: 'paid 1'",
        rf"{first}2 {AT} key 'k' TEXT, 6 bytes: 'paid\n2'",
        f"{first}3 {AT} BINARY, 40 bytes: {bytes(range(32)).hex(' ')} …",
        f"{first}4 {AT} TEXT, 300 bytes: '{'x' * 200}…'",
    ]
    assert look(capsys, path, "--room", ROOM) == (0, lines, "")
    assert look(capsys, path, "--room", ROOM, "--last", "3") == (0, lines[1:], "")


def damage(path: Path, sql: str) -> None:
    connection = sqlite3.connect(path)
    connection.execute(sql)
    connection.commit()
    connection.close()


def test_it_tells_lost_messages(capsys: pytest.CaptureFixture[str], engine: SqliteEngine, path: Path) -> None:
    first = f"{epoch(engine)}-"
    damage(path, "UPDATE records SET frames = x'8100' WHERE id & 3 = 3")
    damage(path, "DELETE FROM records WHERE messages = 2")
    status, lines, _ = look(capsys, path, "--room", ROOM)
    assert status == 1
    assert lines[0] == f"! 3 messages are lost: {first}1 to {first}3"
    status, lines, _ = look(capsys, path, "--check")
    assert status == 1
    assert lines[-1] == f"    ! 3 messages are lost: {first}1 to {first}3"


@pytest.mark.usefixtures("engine")
def test_it_tells_a_room_that_is_damaged(capsys: pytest.CaptureFixture[str], path: Path) -> None:
    damage(path, f"UPDATE rooms SET newest = 9 WHERE path = '{ROOM}'")
    status, lines, _ = look(capsys, path)
    assert status == 1
    assert lines[2:] == ["! a room can't be read: its row is damaged, and a server begins it again"]


def test_it_tells_a_table_that_cannot_be_read(
    capsys: pytest.CaptureFixture[str], engine: SqliteEngine, path: Path
) -> None:
    engine.close()
    content = bytearray(path.read_bytes())
    for page in range(2, len(content) // 4096):
        content[page * 4096 : page * 4096 + 16] = b"\xff" * 16
    path.write_bytes(content)
    status, lines, error = look(capsys, path)
    assert (status, lines) == (1, [])
    assert error.startswith("rawws: a part of the store DIR/rooms.db can't be read (")


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        (["--room", "/no"], "the store has no room /no that can be read; without --room the rooms are listed"),
        (["--last", "3"], "--last is about the messages of a room; give --room PATH too"),
    ],
)
@pytest.mark.usefixtures("engine")
def test_a_mistake_is_told(capsys: pytest.CaptureFixture[str], path: Path, more: list[str], sentence: str) -> None:
    assert look(capsys, path, *more) == (2, [], f"rawws: {sentence}\n")


def test_a_file_that_is_no_store_is_told(capsys: pytest.CaptureFixture[str], path: Path) -> None:
    assert look(capsys, path)[2] == "rawws: there is no store at DIR/rooms.db; give the path that `--store` has\n"
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE other (id)")
    connection.close()
    assert "is a database of another program" in look(capsys, path)[2]
    path.write_bytes(b"x" * 200)
    assert look(capsys, path)[0] == 2
