"""Presence: the joins and leaves of a room's members, for the peers that asked for them with ``?presence``.

Each room owns its `Watchers`. Membership begins in one place (`RoomState.admit`) and ends in one place
(`RoomState.remove`), and both note it there. So a join is noted before anything is sent to the new member, each
join has exactly one leave, whichever way the member goes, and a watcher can't outlive its membership.

Watchers are notified after the turn, not during it: a notification may end a connection, of which the other watchers
are to be notified in turn, and a thousand peers may leave in one turn.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from rawws.peer import Peer
from rawws.wire.encodings import Encoding
from rawws.wire.session import State

if TYPE_CHECKING:
    from rawws.loop import Loop
    from rawws.room_state import RoomState


class _News:
    """A join or a leave of a peer, encoded once for all watchers with the same encoding."""

    __slots__ = ("_encoded", "_members", "who")

    def __init__(self, who: Peer, members: Mapping[str, object]) -> None:
        self.who = who
        self._members = members
        self._encoded: dict[Encoding, bytes] = {}

    def encoded(self, encoding: Encoding) -> bytes:
        """Return it as a control in an encoding."""
        if encoding not in self._encoded:
            self._encoded[encoding] = encoding.encode_control(self._members)
        return self._encoded[encoding]


class Watchers:
    """The members of one room that are notified of the others, and the joins and leaves that were not sent yet."""

    __slots__ = ("_began", "_news")

    def __init__(self) -> None:
        self._began: dict[Peer, int] = {}  # by watcher: how many of the news are older than its membership
        self._news: list[_News] = []

    def __len__(self) -> int:
        return len(self._began)

    def __contains__(self, peer: Peer) -> bool:
        return peer in self._began

    def add(self, peer: Peer) -> None:
        """Notify a member of what is noted from now on."""
        self._began[peer] = len(self._news)

    def discard(self, peer: Peer) -> None:
        """Notify a peer no more. Harmless for one that is no watcher."""
        if self._began.pop(peer, None) is not None and not self._began:
            self._news.clear()

    def note(self, what: str, who: Peer, peers: int) -> bool:
        """Note a join or a leave, after which the room has ``peers`` members; return whether anybody watches."""
        if not self._began:
            return False
        self._news.append(_News(who, {what: {"peer": who.number, "peers": peers}}))
        return True

    def take(self) -> list[tuple[Peer, list[_News]]]:
        """Return the news for each watcher, which count as sent from then on. A peer isn't notified of itself."""
        news, self._news = self._news, []
        due = []
        for watcher, began in self._began.items():
            if others := [each for each in news[began:] if each.who is not watcher]:
                due.append((watcher, others))
        self._began = dict.fromkeys(self._began, 0)
        return due


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
                words = b"".join(each.encoded(watcher.encoding) for each in news)
                try:
                    self._loop.sending.send(watcher, words)
                    if watcher in room.watchers:
                        self._loop.slow.check_notices(watcher, room, len(words))
                except Exception:
                    self._loop.give_up(watcher)
