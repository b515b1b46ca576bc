"""The groups of a hub whose rooms are in a store or in Redis, for as long as a server runs."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Protocol

import trio

from rawws import logs
from rawws.broadcast.log import History
from rawws.errors import Refusal, UsageError
from rawws.groups.doors import Doors
from rawws.groups.groups import Groups
from rawws.groups.push import Pusher, PushTarget, read_push
from rawws.groups.queue import Home
from rawws.hub.hub import Hub
from rawws.hub.queues import NO_STORE, NoQueues
from rawws.relay.backplane import AWAY
from rawws.relay.loop import current_loop
from rawws.relay.room_base import NOBODY
from rawws.relay.room_state import RoomState
from rawws.store.committer import Committer
from rawws.store.entries import Append
from rawws.store.stored_rooms import StoredRooms

if TYPE_CHECKING:
    from rawws.backplane.leases import Leases

_HOLD = "groups"
# Jobs are pushed soon after Redis is back.
PUSH_RETRY_S = 1.0


class HeldRooms:
    """The rooms of a hub, of which some are held: publishers wait there."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        self._held: dict[str, RoomState] = {}  # rooms stay while publishers wait there

    def history(self, path: str) -> History | Refusal:
        return self._hub.refuse_settings(path) or self._hub.registry.get(path).settings.history

    def hold(self, path: str, *, held: bool) -> None:
        if not held:
            if (room := self._held.pop(path, None)) is not None:
                current_loop().slow.unblock(room, _HOLD)
        elif self._hub.refuse_settings(path) is None:  # otherwise nobody can publish there
            room = self._held[path] = self._hub.registry.get(path)
            room.holds.add(_HOLD)


class HubRooms(HeldRooms):
    """The rooms of a hub with a store, as its groups need them."""

    def __init__(self, hub: Hub, committer: Committer) -> None:
        super().__init__(hub)
        self.committer = committer

    def keep_dead(self, path: str) -> None:
        self._hub.keep_dead_jobs(path)

    def bury(self, path: str, frame: bytes) -> None:
        if self._hub.refuse_settings(path) is None:
            room = self._hub.registry.get(path)
            self._hub.keep_dead_jobs(path)
            assert room.shared is not None
            room.shared.take(room, [frame], NOBODY)
        else:  # the application has failed to decide about the room, and the log says so
            self.committer.put(Append(path, frame, 1, self._hub.for_dead_jobs(self._hub.settings).history))


class _Home(Home, Protocol):
    """A place where groups live, with a task."""

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve the groups until cancelled."""

    async def leave(self) -> None:
        """Give back what the workers of this server have, as far as that is possible soon."""


def _home_of(hub: Hub) -> _Home | None:
    """Return the place where the leases of a hub's groups live; None if it keeps no jobs."""
    if isinstance(hub.stored, StoredRooms):
        return Groups(HubRooms(hub, hub.stored.committer), hub.queue_bytes)
    if (shards := hub.backplane) is None:
        return None
    from rawws.backplane.redis_streams import RedisStreams  # programs without a backplane need not load it
    from rawws.groups.shared import SharedGroups

    of_shards: dict[object, Leases] = {each: each.leases for each in shards if isinstance(each, RedisStreams)}
    if not of_shards:  # workers without a broker
        return None
    for_dead = hub.for_dead_jobs(hub.settings).history
    return SharedGroups(
        HeldRooms(hub), list(of_shards.values()), lambda path: of_shards[shards.of(path)], for_dead, hub.queue_bytes
    )


class OpenGroups:
    """The groups of a hub, and the number of the hub's servers. They have a task of their own until the last ends."""

    def __init__(self, hub: Hub, home: _Home) -> None:
        self.servers = 0
        self._hub = hub
        self._groups = home
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
        pusher = Pusher(target, nursery, self._groups.open)
        refusal = await pusher.begin()
        if refusal is AWAY:
            nursery.start_soon(self._push_later, pusher)
        elif refusal is not None:
            raise UsageError(f"jobs can't be pushed to {target.url}: {refusal.sentence}")

    async def _push_later(self, pusher: Pusher) -> None:
        """Begin to push jobs when Redis is there."""
        while (refusal := await pusher.begin()) is AWAY:
            await trio.sleep(PUSH_RETRY_S)
        if refusal is not None:
            pusher.end(refusal)

    async def begin(self) -> None:
        """Open the groups that are stored. Raises `StoreError` if they can't be read, and `UsageError`."""
        if not self._has_begun.is_set():
            trio.lowlevel.spawn_system_task(self._run, name="rawws groups")
            await self._has_begun.wait()
        if self._error is not None:
            raise self._error
        self._hub.queues = Doors(self._groups)
        for room in self._hub.registry:  # a program may have had rooms before
            if self._groups.keeps_dead(room.path):
                self._hub.keep_dead_jobs(room.path)

    async def end(self) -> None:
        """Stop the groups. The store or Redis keeps their state."""
        self._hub.queues = NoQueues(NO_STORE)
        with trio.CancelScope(shield=True):
            await self._groups.leave()
            self._scope.cancel()
            await self._has_ended.wait()


def _only(error: Exception) -> Exception:
    """Return the only exception in a group, such as a nursery raises."""
    while isinstance(error, ExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error


_open: dict[Hub, OpenGroups] = {}


@asynccontextmanager
async def queued(hub: Hub) -> AsyncGenerator[None]:
    """Serve the groups of a hub for the block, if it has a place for them. Several servers of one hub share them.

    Raises `UsageError` if the hub has to push jobs, and that can't be.
    """
    groups = _open.get(hub)
    if groups is None:
        home = _home_of(hub)
        if home is None:
            if hub.push:
                raise UsageError(
                    "push sends the jobs of groups, which need a store or a backplane; give one, or queue_in_memory"
                )
            yield
            return
        groups = _open[hub] = OpenGroups(hub, home)
    groups.servers += 1
    try:
        await groups.begin()
        yield
    finally:
        groups.servers -= 1
        if not groups.servers:
            del _open[hub]
            await groups.end()
