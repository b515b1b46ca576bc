"""Watchers: the members of a room that are notified of each join and leave, with ``?presence``.

Each room owns its `Watchers`. Membership begins in one place (`RoomBase.admit`) and ends in one place
(`RoomBase.remove`), and both note it there. So a join is noted before anything is sent to the new member, each
join has exactly one leave, however the member goes, and a watcher can't outlive its membership.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Generic, Protocol, TypeVar

from rawws.broadcast.encodings import Encoding


class _Numbered(Protocol):
    number: int


Member = TypeVar("Member", bound=_Numbered)


class _News(Generic[Member]):
    """A join or a leave, encoded once for all watchers with the same encoding."""

    __slots__ = ("_encoded", "_members", "who")

    def __init__(self, who: Member, members: Mapping[str, object]) -> None:
        self.who = who
        self._members = members
        self._encoded: dict[Encoding, bytes] = {}

    def encoded(self, encoding: Encoding) -> bytes:
        """Return it as a control in an encoding."""
        if encoding not in self._encoded:
            self._encoded[encoding] = encoding.encode_control(self._members)
        return self._encoded[encoding]


class Watchers(Generic[Member]):
    """The members of one room that are notified of the others, and the joins and leaves that were not sent yet."""

    __slots__ = ("_began", "_news")

    def __init__(self) -> None:
        self._began: dict[Member, int] = {}  # by watcher: the number of news items that are older than its membership
        self._news: list[_News[Member]] = []

    def __len__(self) -> int:
        return len(self._began)

    def __contains__(self, peer: Member) -> bool:
        return peer in self._began

    def add(self, peer: Member) -> None:
        """Notify a member of joins and leaves from now on."""
        self._began[peer] = len(self._news)

    def discard(self, peer: Member) -> None:
        """Stop notifying a peer. Harmless for a peer that is no watcher."""
        if self._began.pop(peer, None) is not None and not self._began:
            self._news.clear()

    def note(self, what: str, who: Member, peers: int) -> bool:
        """Note a join or a leave, after which the room has ``peers`` members; return whether anybody watches."""
        if not self._began:
            return False
        self._news.append(_News(who, {what: {"peer": who.number, "peers": peers}}))
        return True

    def take(self) -> list[tuple[Member, list[_News[Member]]]]:
        """Remove the news, and return them for each watcher. A peer isn't notified of itself."""
        news, self._news = self._news, []
        due = []
        for watcher, began in self._began.items():
            if others := [each for each in news[began:] if each.who is not watcher]:
                due.append((watcher, others))
        self._began = dict.fromkeys(self._began, 0)
        return due
