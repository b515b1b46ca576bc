"""The groups of a hub whose rooms are in a store, for as long as a server runs."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import trio

from rawws import logs
from rawws.errors import Refusal, UsageError
from rawws.groups.doors import Doors
from rawws.groups.groups import Groups
from rawws.groups.push import Pusher, PushTarget, read_push
from rawws.hub.hub import Hub
from rawws.hub.queues import NO_STORE, NoQueues
from rawws.relay.loop import current_loop
from rawws.relay.room_base import NOBODY
from rawws.relay.room_state import RoomState
from rawws.store.committer import Committer
from rawws.store.entries import Append
from rawws.store.stored_rooms import StoredRooms

_HOLD = "groups"


class HubRooms:
    """The rooms of a hub, as its groups need them."""

    def __init__(self, hub: Hub, committer: Committer) -> None:
        self.committer = committer
        self._hub = hub
        self._held: dict[str, RoomState] = {}  # rooms stay while publishers wait there

    def publish(self, path: str, frame: bytes) -> None:
        if self._hub.refuse_settings(path) is None:
            room = self._hub.registry.get(path)
            assert room.shared is not None
            room.shared.take(room, [frame], NOBODY)
        else:  # the application has failed to decide about the room, and the log says so
            self.committer.put(Append(path, frame, 1, self._hub.dead_history))

    def hold(self, path: str, *, held: bool) -> None:
        if not held:
            if (room := self._held.pop(path, None)) is not None:
                current_loop().slow.unblock(room, _HOLD)
        elif self._hub.refuse_settings(path) is None:  # otherwise nobody can publish there
            room = self._held[path] = self._hub.registry.get(path)
            room.holds.add(_HOLD)


class OpenGroups:
    """The groups of a hub, and the number of the hub's servers. They have a task of their own until the last ends."""

    def __init__(self, hub: Hub, committer: Committer) -> None:
        self.servers = 0
        self._hub = hub
        self._groups = Groups(HubRooms(hub, committer), hub.queue_bytes)
        self._pushes = [read_push(each) for each in hub.push]
        self._scope = trio.CancelScope()
        self._has_begun, self._has_ended = trio.Event(), trio.Event()
        self._error: Exception | None = None

    @trio.lowlevel.enable_ki_protection
    async def _run(self) -> None:
        try:
            with self._scope:
                async with trio.open_nursery() as nursery:
                    await nursery.start(self._groups.run)
                    for target in self._pushes:
                        await self._begin_push(target, nursery)
                    self._has_begun.set()
        except Exception as error:
            self._error = _only(error)
            if self._has_begun.is_set():  # nobody else asks for it
                logs.server.exception("#%d ! an error in rawws itself; all groups have stopped", logs.SERVER)
        finally:
            self._has_begun.set()
            self._has_ended.set()

    async def _begin_push(self, target: PushTarget, nursery: trio.Nursery) -> None:
        pusher = Pusher(target, nursery)
        found = await self._groups.open(target.path, pusher.query)
        if isinstance(found, Refusal):
            raise UsageError(f"jobs can't be pushed to {target.url}: {found.sentence}")
        pusher.join(found)

    async def begin(self) -> None:
        """Open the groups that are stored. Raises `StoreError` if they can't be read, and `UsageError`."""
        if not self._has_begun.is_set():
            trio.lowlevel.spawn_system_task(self._run, name="rawws groups")
            await self._has_begun.wait()
        if self._error is not None:
            raise self._error
        self._hub.queues = Doors(self._groups)

    async def end(self) -> None:
        """Stop the groups. The store keeps their state."""
        self._hub.queues = NoQueues(NO_STORE)
        self._scope.cancel()
        with trio.CancelScope(shield=True):
            await self._has_ended.wait()


def _only(error: Exception) -> Exception:
    """Return the only exception in a group, such as a nursery raises."""
    while isinstance(error, ExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error


_open: dict[Hub, OpenGroups] = {}


@asynccontextmanager
async def queued(hub: Hub) -> AsyncGenerator[None]:
    """Serve the groups of a hub for the block, if its store is open. Several servers of one hub share them."""
    if not isinstance(hub.stored, StoredRooms):
        yield
        return
    groups = _open.get(hub)
    if groups is None:
        groups = _open[hub] = OpenGroups(hub, hub.stored.committer)
    groups.servers += 1
    try:
        await groups.begin()
        yield
    finally:
        groups.servers -= 1
        if not groups.servers:
            del _open[hub]
            await groups.end()
