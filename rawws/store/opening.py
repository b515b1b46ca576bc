"""The store of a hub while it is served: opened before the first server listens, closed after the last has ended."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import trio

from rawws import logs
from rawws.errors import UsageError
from rawws.hub.hub import Hub
from rawws.store.committer import Committer
from rawws.store.engine import Engine
from rawws.store.memory_engine import MemoryEngine
from rawws.store.modes import SyncMode
from rawws.store.sqlite_engine import SqliteEngine
from rawws.store.stored_rooms import StoredRooms
from rawws.wire.trace import FAULT, STATE

# At its end, a server waits for at most this time for messages that are not stored yet.
FLUSH_S = 3.0


class OpenStore:
    """The store of a hub, and the number of the hub's servers. It has a task of its own until the last has ended."""

    def __init__(self, hub: Hub, engine: Engine, sync_every_s: float) -> None:
        self.servers = 0
        self._hub = hub
        self._committer = Committer(engine, sync_every_s=sync_every_s)
        self.rooms = StoredRooms(self._committer, hub.refuse_room, hub.store_rooms)
        self._scope = trio.CancelScope()
        self._has_ended = trio.Event()

    @trio.lowlevel.enable_ki_protection
    async def run(self) -> None:
        """Store until `end` is called."""
        try:
            with self._scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._committer.run)
                    nursery.start_soon(self.rooms.run)
        finally:
            self._has_ended.set()

    async def end(self) -> None:
        """Store what waits, for at most `FLUSH_S`, and close the store."""
        try:
            with trio.CancelScope(deadline=trio.current_time() + FLUSH_S, shield=True):  # what was accepted goes first
                await self._committer.flush()
        finally:
            self._scope.cancel()
            with trio.CancelScope(shield=True):
                await self._has_ended.wait()
            self.rooms.close()
            if self._hub.stored is self.rooms:  # and the hub is not served again already
                self._hub.store_through(None)
            if lost := self._committer.lost_messages:
                sentence = f"accepted messages that are lost, since they can't be stored: {lost}"
                logs.server_line(logging.ERROR, FAULT, sentence)


_open: dict[Hub, OpenStore] = {}


@asynccontextmanager
async def opened(hub: Hub) -> AsyncIterator[None]:
    """Keep the store of a hub open for the block, if it has one. Several servers of one hub share it.

    Raises `UsageError` when the store can't be used.
    """
    if hub.store is None and not hub.queue_in_memory:
        yield
        return
    store = _open.get(hub)
    if store is None:
        store = _open[hub] = _open_in_memory(hub) if hub.store is None else _open_for(hub, hub.store)
        trio.lowlevel.spawn_system_task(store.run, name="rawws store")
    store.servers += 1
    try:
        yield
    finally:
        store.servers -= 1
        if not store.servers:
            del _open[hub]
            await store.end()


def _check_hub(hub: Hub) -> None:
    if hub.backplane is not None:
        raise UsageError("a hub with a backplane can't have a store: the backplane keeps its messages; leave one out")


def _open_in_memory(hub: Hub) -> OpenStore:
    """Open a store that ends with the program, for the jobs of groups."""
    _check_hub(hub)
    store = OpenStore(hub, MemoryEngine(), math.inf)
    hub.store_through(store.rooms)
    logs.server_line(logging.WARNING, STATE, "jobs are kept in memory, and those that are left end with the server")
    return store


def _open_for(hub: Hub, path: str | os.PathLike[str]) -> OpenStore:
    _check_hub(hub)
    mode = SyncMode(hub.store_sync)
    engine = SqliteEngine(Path(path), mode, most_bytes=hub.store_bytes)
    every_s = hub.store_interval_s if mode is SyncMode.INTERVAL else math.inf
    store = OpenStore(hub, engine, every_s)
    hub.store_through(store.rooms)
    if engine.lost:
        sentence = f"messages that were stored last are lost, since the machine has ended: {engine.lost}"
        logs.server_line(logging.WARNING, FAULT, sentence)
    logs.server_line(logging.INFO, STATE, f"rooms are stored in {engine.description} ({mode.value})")
    return store
