"""The checks of a hub's arguments."""

from __future__ import annotations

import enum
import os
from collections.abc import Sequence
from typing import TypeVar

from rawws.callables import check_plain
from rawws.errors import UsageError
from rawws.hub.moderator import Attendance, Moderator, OnMember, OnMessage
from rawws.limits import check_names


class Mode(enum.Enum):
    BROADCAST = "broadcast"  # each message to all of the room, its sender included
    ECHO = "echo"  # each message to its sender alone


_Choice = TypeVar("_Choice", bound=enum.Enum)


def check_store(store: str | os.PathLike[str] | None, mode: Mode) -> str | os.PathLike[str] | None:
    """Return the path of a store, or None. Raises `UsageError`."""
    if store is None:
        return None
    if not isinstance(store, str | os.PathLike) or not os.fspath(store):
        raise UsageError(f"store can't be {store!r}; it is the path of a file, such as 'rooms.db'")
    if mode is Mode.ECHO:
        raise UsageError("a store is for the messages of rooms, and with mode='echo' there are none; leave one out")
    return store


def check_push(push: Sequence[str] | None) -> tuple[str, ...]:
    """Return the pushes. Raises `UsageError`."""
    check_names("push", push)
    return tuple(push or ())


def check_queues(in_memory: bool, store: object, mode: Mode) -> bool:
    """Return whether a hub without a store keeps jobs. Raises `UsageError`."""
    if in_memory and store is not None:
        raise UsageError("queue_in_memory is for a hub without a store, which keeps its jobs there; leave one out")
    if in_memory and mode is Mode.ECHO:
        raise UsageError("jobs are the messages of rooms, and with mode='echo' there are none; leave one out")
    return in_memory


def choose(choices: type[_Choice], given: _Choice | str, what: str) -> _Choice:
    """Return the choice that is given by itself or by its value. Raises `UsageError`."""
    try:
        return choices(given)
    except ValueError:
        names = ", ".join(repr(choice.value) for choice in choices)
        raise UsageError(f"there is no {what} {given!r}; give one of {names}") from None


def moderator_of(on_message: OnMessage | None, mode: Mode) -> Moderator | None:
    """Return the moderator that asks a program's function; None without one. Raises `UsageError`."""
    if on_message is None:
        return None
    check_plain("on_message", on_message, "sender", "message")
    if mode is Mode.ECHO:
        raise UsageError("on_message is asked about the messages of rooms, and with mode='echo' there are none")
    return Moderator(on_message)


def attendance_of(on_join: OnMember | None, on_leave: OnMember | None) -> Attendance | None:
    """Return the attendance that tells a program's functions about members; None without them. Raises `UsageError`."""
    for name, given in (("on_join", on_join), ("on_leave", on_leave)):
        if given is not None:
            check_plain(name, given, "member")
    return None if on_join is None and on_leave is None else Attendance(on_join, on_leave)
