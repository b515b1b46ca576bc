"""Presence: the joins and leaves of a room's members, for the peers that asked for them with ``?presence``.

Watchers are notified after the turn, not during it: a notification may end a connection, of which the other watchers
are to be notified in turn, and a thousand peers may leave in one turn.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rawws.wire.encodings import EVENTS
from rawws.wire.session import State

if TYPE_CHECKING:
    from rawws.loop import Loop
    from rawws.room_state import RoomState


class Presence:
    """Notifies the watchers of all rooms, on behalf of the loop."""

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        self._rooms: dict[RoomState, None] = {}  # the rooms that have news

    @property
    def has_news(self) -> bool:
        """Whether there is a watcher to notify."""
        return bool(self._rooms)

    def tell_soon(self, room: RoomState) -> None:
        """Have a room's watchers notified after this turn."""
        self._rooms[room] = None
        self._loop.run_errands_soon()

    def tell(self) -> None:
        """Notify the watchers of what was noted."""
        rooms, self._rooms = self._rooms, {}
        for room in rooms:
            for watcher, news in room.watchers.take():
                if watcher not in room.watchers or watcher.session.state is not State.OPEN:
                    continue  # it has left since, perhaps because of what the others were sent
                is_events = watcher.encoding & EVENTS
                words = b"".join(each.as_events if is_events else each.as_frames for each in news)
                try:
                    self._loop.sending.send(watcher, words)
                    if watcher in room.watchers:
                        self._loop.slow.check_notices(watcher, room, len(words))
                except Exception:
                    self._loop.give_up(watcher)
