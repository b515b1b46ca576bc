"""The backplanes of one hub, of which each room has one."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from typing import Any

from rawws.access.dead_rooms import rooms_of_dead
from rawws.broadcast.node_answers import Gathered
from rawws.errors import BackplaneAway
from rawws.relay.backplane import Backplane
from rawws.relay.room_state import RoomState


class Shards:
    """The backplanes of a hub, or its only one. On all nodes with the same backplanes, a room has the same one.

    The choice depends on the room's path and on the backplanes' names, but not on their order. When a backplane is
    added, some rooms of each of the others move to it, and no other room moves (rendezvous hashing).
    """

    def __init__(self, shards: Mapping[str, Backplane[RoomState]]) -> None:
        self._shards = shards

    def __repr__(self) -> str:
        return f"<Shards {', '.join(map(repr, self._shards.values()))}>"

    def of(self, path: str) -> Backplane[RoomState]:
        """Return the backplane of a room. That of a dead room is its group's, which moves jobs in one step."""
        if rooms := rooms_of_dead(path):
            path = rooms[-1]
        return self._shards[max(self._shards, key=lambda name: _weigh(name, path))]

    def __iter__(self) -> Iterator[Backplane[RoomState]]:
        return iter(self._shards.values())

    @property
    def is_away(self) -> bool:
        """Whether any of them can't be reached at present."""
        return any(shard.is_away for shard in self._shards.values())

    @property
    def waiting(self) -> int:
        """The number of messages on their way to them."""
        return sum(shard.waiting for shard in self._shards.values())

    async def flush(self) -> None:
        """Wait until no message is on its way any more."""
        for shard in self._shards.values():
            await shard.flush()

    def tell(self, kind: str, body: Mapping[str, Any]) -> None:
        """Send a command to all other nodes, through each of the backplanes: it is carried out in the rooms of each.

        Raises as `Backplane.tell` does, after all of them have been tried.
        """
        problem: BackplaneAway | None = None
        for shard in self._shards.values():
            try:
                shard.tell(kind, body)
            except BackplaneAway as error:
                problem = error
        if problem is not None:
            raise problem

    async def ask(self, kind: str, body: Mapping[str, Any], timeout_s: float) -> Gathered:
        """Ask all other nodes, through the first backplane that can be reached."""
        shards = [self._shards[name] for name in sorted(self._shards)]
        shard = next((each for each in shards if not each.is_away), shards[0])
        return await shard.ask(kind, body, timeout_s)


def _weigh(name: str, path: str) -> bytes:
    return hashlib.blake2b(f"{name}\n{path}".encode(), digest_size=8).digest()
