"""``rawws store``: shows what a store has, also while a server has it open."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from rawws.cli.arguments import above_zero, count
from rawws.cli.flags import Flag, FlagTable, Value
from rawws.cli.streams import complain, need_output, writing_output
from rawws.errors import UsageError
from rawws.store.engine import StoreError
from rawws.store.entries import GroupState, Record
from rawws.store.looking import SeenRoom, StoreView
from rawws.store.retention import needed_by
from rawws.store.sqlite_rows import StoredRoom
from rawws.wire.frames import Opcode, split_frames
from rawws.wire.trace import printable, quote

_LOST = 1  # the exit status when something can't be read

_TEXT_CHARACTERS = 200
_BINARY_BYTES = 32

FLAGS = FlagTable(
    {
        "messages to show": (
            Flag("--room", Value(metavar="PATH"), "show the messages of this room, each on a line"),
            Flag(
                "--last",
                Value(above_zero(count), "COUNT"),
                "show this many messages of the room, the latest ones",
                shown_default="all",
            ),
            Flag(
                "--check",
                None,
                "read all messages, and tell which are lost",
                own_default=False,
                manual="Each message has a checksum. Without the flag, only the messages that are shown are checked.",
            ),
        )
    }
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Shows the rooms in a store, with the messages that each keeps and its groups; or the messages of a room. "
        "Nothing is changed, and a server may have the store open. The exit status is 1 if something in it is damaged."
    )
    parser.add_argument("path", metavar="PATH", help="the file that a server has as --store")
    FLAGS.add_to(parser)


def run(options: argparse.Namespace) -> int:
    """Print what is in a store; the status is 1 when something in it is lost."""
    need_output()
    if options.last and options.room is None:
        raise UsageError("--last is about the messages of a room; give --room PATH too")
    view = StoreView(Path(options.path))
    lost = False
    try:
        lines = _room_lines(view, options.room, options.last) if options.room else _all_lines(view, options.check)
        for line in lines:
            lost = lost or line.is_loss
            with writing_output():
                print(printable(line.text))
    except StoreError as error:
        complain(str(error))
        return _LOST
    finally:
        view.close()
    return _LOST if lost else 0


class _Line(NamedTuple):
    """A line of the output."""

    text: str
    is_loss: bool = False


def _all_lines(view: StoreView, is_checked: bool) -> Iterator[_Line]:
    for seen in view.rooms():
        if seen is None:
            yield _Line("! a room can't be read: its row is damaged, and a server begins it again", is_loss=True)
            continue
        yield from map(_Line, _about(seen))
        if is_checked:
            for record in view.records(seen.room):
                if record.frames is None:
                    yield _Line(f"    {_loss(seen.room, record)}", is_loss=True)


def _about(seen: SeenRoom) -> Iterator[str]:
    """Yield the lines about a room and its groups."""
    room = seen.room
    kept, size = room.extent
    line = f"{room.path}: {_number(kept, 'message')}, {_number(size, 'byte')}"
    if room.newest:
        line += f"; the newest is {room.epoch}-{room.newest}, last used {_time(room.used_at)}"
    yield line
    for group in seen.groups:
        yield f"    group {group.group}: {_state(room, group)}"


def _state(room: StoredRoom, group: GroupState) -> str:
    leased = sum(bool(job.lease) for job in group.jobs)
    untaken = room.newest - max(group.position, room.oldest - 1)
    line = f"{max(0, untaken) + len(group.jobs) - leased:,} waiting, {leased:,} leased"
    oldest = max(room.oldest, needed_by(group.position, group.jobs))
    return f"{line}; the oldest is {room.epoch}-{oldest}" if oldest <= room.newest else line


def _room_lines(view: StoreView, path: str, last: int | None) -> Iterator[_Line]:
    room = view.room(path)
    if room is None:
        raise UsageError(f"the store has no room {path} that can be read; without --room the rooms are listed")
    if last is None:
        for record in view.records(room):
            yield from _messages(room, record)
        return
    lines = [line for record in view.last(room, last) for line in _messages(room, record)]
    yield from lines[-last:]


def _messages(room: StoredRoom, record: Record) -> Iterator[_Line]:
    """Yield a line for each message of a record that the room keeps, or one for a lost stretch."""
    if record.frames is None:
        yield _Line(_loss(room, record), is_loss=True)
        return
    key = f" key {quote(record.key)}" if record.key is not None else ""
    for number, (header, payload) in enumerate(split_frames(record.frames), record.first):
        if number >= room.oldest:
            shown = _payload(Opcode(header.opcode), bytes(payload))
            yield _Line(f"{room.epoch}-{number} {_time(record.at)}{key} {header.opcode_name}, {shown}")


def _payload(opcode: Opcode, payload: bytes) -> str:
    size = _number(len(payload), "byte")
    if opcode is Opcode.TEXT:
        text = payload.decode(errors="replace")
        return f"{size}: {quote(text if len(text) <= _TEXT_CHARACTERS else text[:_TEXT_CHARACTERS] + '…')}"
    more = " …" if len(payload) > _BINARY_BYTES else ""
    return f"{size}: {payload[:_BINARY_BYTES].hex(' ')}{more}"


def _loss(room: StoredRoom, record: Record) -> str:
    what = "message is" if record.messages == 1 else "messages are"
    return f"! {record.messages:,} {what} lost: {room.epoch}-{record.first} to {room.epoch}-{record.last}"


def _number(count: int, what: str) -> str:
    return f"{count:,} {what}{'s' * (count != 1)}"


def _time(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
