"""The other nodes that share a hub's rooms, as an operator asks them through the backplane.

A list is a question to all of them, and each answers for itself. A user is disconnected by the command of
`Hub.disconnect`, which also reaches a node that is away from the backplane for a while; nobody counts what it ends. The
connections of one node alone are ended by a question to it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from rawws.broadcast.node_answers import Gathered
from rawws.errors import BackplaneAway, UsageError
from rawws.hub.administration import Entry, HubNode, Page, PeerEntry, PeersWanted, RoomEntry, RoomsWanted
from rawws.hub.hub import Hub
from rawws.hub.hub_commands import DISCONNECT, disconnect_body
from rawws.hub.node_lists import (
    end_body,
    items_of,
    read_end_question,
    read_ended,
    read_page,
    read_peer,
    read_peers_question,
    read_room,
    read_rooms_question,
    spellings,
)
from rawws.wire.events import CloseFrame

ROOMS, PEERS, END = "rooms/1", "peers/1", "end/1"
# The time in which the other nodes have to answer.
PATIENCE_S = 2.0


class OtherNodes:
    """All nodes of a hub but this one. There are none while the hub has no backplane."""

    def __init__(self, hub: Hub, own: HubNode) -> None:
        """From now on, the questions of the others are answered by ``own``."""
        self._hub = hub
        self._own = own
        hub.commands.answer_with(ROOMS, self._answer_rooms, read_rooms_question)
        hub.commands.answer_with(PEERS, self._answer_peers, read_peers_question)
        hub.commands.answer_with(END, self._answer_end, read_end_question)

    async def list_rooms(self, wanted: RoomsWanted) -> Sequence[Page[RoomEntry]]:
        return await self._list(ROOMS, wanted, read_room)

    async def list_peers(self, wanted: PeersWanted) -> Sequence[Page[PeerEntry]]:
        return await self._list(PEERS, wanted, read_peer)

    async def _list(
        self, kind: str, wanted: RoomsWanted | PeersWanted, read: Callable[[str, Any], Entry]
    ) -> Sequence[Page[Entry]]:
        if self._hub.backplane is None or wanted.node == self._own.name:
            return []
        gathered = await self._hub.backplane.ask(kind, asdict(wanted), PATIENCE_S)
        pages: list[Page[Entry]] = []
        silent = _silent(gathered)
        names = {self._own.name}
        for answer in gathered.answers:
            name = answer.name.host
            try:
                if name in names:
                    raise UsageError("another node has this name, so that a place in the list would be two")
                pages.append(read_page(answer, wanted.after, read))
                names.add(name)
            except UsageError:  # also of one that no node has written
                silent.append(name)
        nothing: Page[Entry] = Page("", silent=sorted(silent))
        pages.append(nothing)
        return pages

    async def disconnect(self, wanted: PeersWanted, close: CloseFrame) -> Mapping[str, int]:
        """End connections.

        Raises `BackplaneAway` if the others can't be reached later either, or if the node whose connections are wanted
        doesn't answer.
        """
        backplane = self._hub.backplane
        if backplane is None or wanted.node == self._own.name:
            return {}
        if wanted.node is None and wanted.user is not None:
            for user in spellings(wanted.user):
                backplane.tell(DISCONNECT, disconnect_body(user, close))
            return {}
        gathered = await backplane.ask(END, end_body(wanted, close), PATIENCE_S)
        ended: dict[str, int] = {}
        silent = _silent(gathered)
        for answer in gathered.answers:
            if wanted.node not in (None, answer.name.host):
                continue
            try:
                ended.update(read_ended(answer))
            except UsageError:
                silent.append(answer.name.host)
        if gathered.problem or wanted.node in silent:
            raise BackplaneAway(f"no answer from node {wanted.node}")
        return ended

    # Answers to others

    async def _answer_rooms(self, wanted: RoomsWanted) -> Iterable[object]:
        return items_of(await self._own.list_rooms(wanted))

    async def _answer_peers(self, wanted: PeersWanted) -> Iterable[object]:
        return items_of(await self._own.list_peers(wanted))

    async def _answer_end(self, question: tuple[PeersWanted, CloseFrame]) -> Iterable[object]:
        ended = await self._own.disconnect(*question)
        return ended.items()


def _silent(gathered: Gathered) -> list[str]:
    """Return the names of the nodes that haven't answered, or why it is unknown which nodes there are."""
    return [gathered.problem] if gathered.problem else [name.host for name in gathered.silent]
