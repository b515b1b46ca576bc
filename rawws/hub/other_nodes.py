"""The other nodes that share a hub's rooms, as an operator asks them through the backplane.

A list is a question to all of them, and each answers for itself. The first item of an answer is the key after which the
node's list goes on, or null; the others are entries. A user is disconnected by the command of `Hub.disconnect`, which
also reaches a node that is away from the backplane for a while; nobody counts what it ends. The connections of one node
alone are ended by a question to it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from rawws.broadcast.node_answers import NodeAnswer
from rawws.hub.administration import Entry, HubNode, Page, PeerEntry, PeersWanted, Place, RoomEntry, RoomsWanted
from rawws.hub.hub import Hub
from rawws.hub.hub_commands import DISCONNECT, disconnect_body
from rawws.wire.events import CloseFrame, check_close

ROOMS, PEERS, END = "rooms/1", "peers/1", "end/1"
# The time in which the other nodes have to answer.
PATIENCE_S = 2.0


class OtherNodes:
    """All nodes of a hub but this one. There are none while the hub has no backplane."""

    def __init__(self, hub: Hub, own: HubNode) -> None:
        """From now on, the questions of the others are answered by ``own``."""
        self._hub = hub
        self._own = own
        hub.commands.answer_with(ROOMS, self._answer_rooms)
        hub.commands.answer_with(PEERS, self._answer_peers)
        hub.commands.answer_with(END, self._answer_end)

    async def list_rooms(self, wanted: RoomsWanted) -> Sequence[Page[RoomEntry]]:
        return await self._list(ROOMS, wanted, RoomEntry)

    async def list_peers(self, wanted: PeersWanted) -> Sequence[Page[PeerEntry]]:
        return await self._list(PEERS, wanted, PeerEntry)

    async def _list(self, kind: str, wanted: RoomsWanted | PeersWanted, make: type[Entry]) -> Sequence[Page[Entry]]:
        if self._hub.backplane is None or wanted.node == self._own.name:
            return []
        gathered = await self._hub.backplane.ask(kind, asdict(wanted), PATIENCE_S)
        pages: list[Page[Entry]] = [_read_page(answer, make) for answer in gathered.answers]
        silent = [gathered.problem] if gathered.problem else [name.host for name in gathered.silent]
        nothing: Page[Entry] = Page("", silent=silent)
        pages.append(nothing)
        return pages

    async def disconnect(self, wanted: PeersWanted, close: CloseFrame) -> Mapping[str, int]:
        """End connections. Raises `BackplaneAway` if the others can't be reached later either."""
        backplane = self._hub.backplane
        if backplane is None or wanted.node == self._own.name:
            return {}
        if wanted.node is None and wanted.user is not None:
            for user in _spellings(wanted.user):
                backplane.tell(DISCONNECT, disconnect_body(user, close))
            return {}
        gathered = await backplane.ask(END, {"wanted": asdict(wanted), "close": list(close)}, PATIENCE_S)
        return {name: count for answer in gathered.answers for name, count in answer.items}

    # Answers to others

    async def _answer_rooms(self, body: Mapping[str, Any]) -> Iterable[object]:
        return _items(await self._own.list_rooms(RoomsWanted(**{**body, "after": _place(body)})))

    async def _answer_peers(self, body: Mapping[str, Any]) -> Iterable[object]:
        return _items(await self._own.list_peers(PeersWanted(**{**body, "after": _place(body)})))

    async def _answer_end(self, body: Mapping[str, Any]) -> Iterable[object]:
        ended = await self._own.disconnect(PeersWanted(**body["wanted"]), check_close(*body["close"]))
        return ended.items()


def _spellings(user: str) -> list[str | int]:
    """Return a user's name as others may have it: a program's user may be a number."""
    is_number = user.isascii() and user.isdigit() and str(int(user[:20])) == user
    return [user, int(user)] if is_number else [user]


def _place(body: Mapping[str, Any]) -> Place[Any] | None:
    return None if body["after"] is None else Place(**body["after"])


def _items(pages: Sequence[Page[Entry]]) -> Iterable[object]:
    for page in pages:
        yield None if page.next is None else page.next.key
        yield from map(asdict, page.entries)


def _read_page(answer: NodeAnswer, make: type[Entry]) -> Page[Entry]:
    """Return the page that another node has sent. One that was too large goes on after its last entry."""
    if not answer.items:
        return Page("")
    key, *items = answer.items
    entries = [make(**item) for item in items]
    node = entries[0].node if entries else answer.name.host
    if answer.left_out and entries:
        return Page(node, entries, entries[-1].place)
    return Page(node, entries, None if key is None else Place(node, key))
