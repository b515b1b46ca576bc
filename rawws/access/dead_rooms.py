"""The paths of dead rooms: ``/room/pay.sms.dead`` has the dead jobs that the group ``sms`` had of ``/room/pay``.

A dead room is a room, so it may have groups, and dead rooms, of its own.
"""

from __future__ import annotations

import re

_GROUP = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,31}")


def dead_room(path: str, group: str) -> str:
    """Return the path of the room in which a group's dead jobs are."""
    return f"{path}.{group}.dead"


def is_dead_room(path: str) -> bool:
    """Return whether a path is one at which the dead jobs of a group are kept."""
    return bool(rooms_of_dead(path))


def group_of_dead_room(path: str) -> tuple[str, str] | None:
    """Return the room and the name of the group whose dead jobs would be kept at a path; None for another path."""
    if not path.endswith(".dead"):
        return None
    room, _, group = path.removesuffix(".dead").rpartition(".")
    return (room, group) if room and _GROUP.fullmatch(group) else None


def rooms_of_dead(path: str) -> tuple[str, ...]:
    """Return the room whose jobs have died in a dead room, and if that is a dead room too, the one with which it began.

    There are none for a path that isn't that of a dead room.
    """
    if not path.endswith(".dead"):
        return ()
    parts = path.split(".")
    left = len(parts)
    while left > 2 and parts[left - 1] == "dead" and _GROUP.fullmatch(parts[left - 2]):
        left -= 2
    if left == len(parts):
        return ()
    own, first = ".".join(parts[:-2]), ".".join(parts[:left])
    return (own,) if own == first else (own, first)
