"""Presence: the joins and leaves of rooms' members, for the peers that asked for them with ``?presence``.

Watchers are notified after the turn, not during it: a notification may end a connection, which causes
further notifications, and a thousand peers may leave in one turn.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from rawws.relay.peer import Peer
from rawws.relay.room_state import RoomState
from rawws.wire.session import State


class Notification(NamedTuple):
    """The joins and leaves for one watcher of a room, in the watcher's own encoding."""

    watcher: Peer
    room: RoomState
    data: bytes


class Presence:
    """The rooms of a loop whose watchers have to be notified."""

    def __init__(self) -> None:
        self._rooms: dict[RoomState, None] = {}  # in the order in which they had news

    @property
    def has_news(self) -> bool:
        """Whether a watcher has to be notified."""
        return bool(self._rooms)

    def add(self, room: RoomState) -> None:
        """Have `take` return the news of a room."""
        self._rooms[room] = None

    def take(self) -> Iterator[Notification]:
        """Yield the notifications that are due. News that rooms have from now on is for the next call.

        Send each one before asking for the next: a watcher that has left meanwhile is left out, and sending may make it
        leave.
        """
        rooms, self._rooms = self._rooms, {}
        for room in rooms:
            for watcher, news in room.watchers.take():
                if watcher not in room.watchers or watcher.session.state is not State.OPEN:
                    continue
                yield Notification(watcher, room, b"".join(each.encoded(watcher.encoding) for each in news))
