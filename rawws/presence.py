"""Who came to a room and who has gone, for those who want to know, in the loop's name.

They are told behind the turn and not at once: sending may end a connection, of which others are to be told in turn, and
a thousand may go in the same turn.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from rawws.peer import Peer
from rawws.room import Room
from rawws.wire.encodings import EVENTS, WITH_IDS, notice
from rawws.wire.session import State

if TYPE_CHECKING:
    from rawws.loop import Loop


class _News(NamedTuple):
    """That somebody came or went, in the two forms in which it can be told."""

    who: Peer
    as_frames: bytes
    as_events: bytes


class Presence:
    """Tells of it, for the loop."""

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        self._news: dict[Room, list[_News]] = {}

    @property
    def has_news(self) -> bool:
        """Whether there is something to tell."""
        return bool(self._news)

    def note(self, room: Room, what: str, who: Peer) -> None:
        """Have the others told soon that somebody joins or leaves a room."""
        told = {what: {"peer": who.number, "peers": len(room)}}
        self._news.setdefault(room, []).append(_News(who, notice(told, WITH_IDS), notice(told, EVENTS)))
        self._loop.run_errands_soon()

    def tell(self) -> None:
        """Tell what was noted."""
        everything, self._news = self._news, {}
        for room, news in everything.items():
            for watcher in list(room.watchers):
                others = [each for each in news if each.who is not watcher]
                if not others or watcher.session.state is not State.OPEN:
                    continue
                try:
                    is_events = watcher.form & EVENTS
                    words = b"".join(each.as_events if is_events else each.as_frames for each in others)
                    self._loop.sending.send(watcher, words)
                    self._loop.slow.check_notices(watcher, room, len(words))
                except Exception:
                    self._loop.give_up(watcher)
