"""Presence: the joins and leaves of rooms' members, for the peers that asked for them with ``?presence``.

Watchers are notified after the turn, not during it: a notification may end a connection, of which the other watchers
are to be notified in turn, and a thousand peers may leave in one turn.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from rawws.relay.peer import Peer
from rawws.relay.room_state import RoomState
from rawws.wire.session import State


class Notification(NamedTuple):
    """The joins and leaves that a watcher of a room is to be sent, in its own encoding."""

    watcher: Peer
    room: RoomState
    data: bytes


class Presence:
    """The rooms of a loop whose watchers are to be notified."""

    def __init__(self) -> None:
        self._rooms: dict[RoomState, None] = {}  # in the order in which they had news

    @property
    def has_news(self) -> bool:
        """Whether a watcher is to be notified."""
        return bool(self._rooms)

    def add(self, room: RoomState) -> None:
        """Have `take` return the news of a room."""
        self._rooms[room] = None

    def take(self) -> Iterator[Notification]:
        """Yield the notifications that are due; rooms that have news from now on are for the next call.

        Each is to be sent before the next one is asked for: a watcher that has left meanwhile, perhaps because of what
        the others were sent, is left out.
        """
        rooms, self._rooms = self._rooms, {}
        for room in rooms:
            for watcher, news in room.watchers.take():
                if watcher not in room.watchers or watcher.session.state is not State.OPEN:
                    continue
                yield Notification(watcher, room, b"".join(each.encoded(watcher.encoding) for each in news))
