"""The groups of a hub whose rooms are in a store, for as long as a server runs."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import trio

from rawws.groups.groups import QUEUE_BYTES, Groups
from rawws.hub.hub import Hub
from rawws.relay.loop import current_loop
from rawws.relay.room_base import NOBODY
from rawws.store.committer import Committer

_HOLD = "groups"


class HubRooms:
    """The rooms of a hub, as its groups need them."""

    def __init__(self, hub: Hub, committer: Committer) -> None:
        self.committer = committer
        self._hub = hub
        self._held: dict[str, object] = {}  # rooms stay while publishers wait there

    def publish(self, path: str, frame: bytes) -> None:
        self._hub.registry.get(path).send_to_backplane([frame], NOBODY)

    def hold(self, path: str, *, held: bool) -> None:
        room = self._hub.registry.get(path)
        if held:
            self._held[path] = room
            room.holds.add(_HOLD)
        else:
            self._held.pop(path, None)
            current_loop().slow.unblock(room, _HOLD)


@asynccontextmanager
async def with_groups(hub: Hub, committer: Committer, queue_bytes: int = QUEUE_BYTES) -> AsyncGenerator[Groups]:
    """Give a hub groups for as long as the block runs. ``committer`` is that of its rooms, and runs meanwhile.

    The groups of a room keep about ``queue_bytes`` at most.
    """
    groups = Groups(HubRooms(hub, committer), queue_bytes)
    async with trio.open_nursery() as nursery:
        await nursery.start(groups.run)
        hub.queues = groups
        try:
            yield groups
        finally:
            hub.queues = None
            nursery.cancel_scope.cancel()
