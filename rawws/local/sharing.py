"""Sharing the rooms of a worker's hub with the other workers of the same machine."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager

import trio

from rawws import logs
from rawws.broadcast.node_answers import NodeName
from rawws.errors import Refusal
from rawws.hub.hub import Hub
from rawws.hub.queues import NoQueues
from rawws.hub.shards import Shards
from rawws.local.local_rooms import LocalRooms
from rawws.net.addresses import name_this_process
from rawws.wire.trace import FAULT

# The name of this backplane, where others have a URL.
LOCAL = "local:"
UNSHARED = Refusal(
    501,
    "no_shared_groups",
    "Rooms that the workers of a server share have no groups yet.",
    hint="for jobs, give --backplane the URL of a Redis, or start one server with --store PATH and without --workers",
)
# When a worker ends, it waits for at most this time for messages that are still on their way.
FLUSH_S = 3.0


@asynccontextmanager
@trio.lowlevel.enable_ki_protection
async def share_with_workers(hub: Hub, link: socket.socket, on_gone: Callable[[], None]) -> AsyncGenerator[Shards]:
    """Share a hub's rooms with the other workers, as long as the block runs.

    ``link`` goes to the sequencer in the first process. ``on_gone`` is called when the sequencer is gone, or has given
    this worker up: then nothing more is published, and the worker should end.
    """
    name = NodeName(os.urandom(6).hex(), name_this_process())
    rooms = LocalRooms(link, hub.refuse_room, name, hub.commands)
    shards = Shards({LOCAL: rooms})
    hub.share_through(shards)
    hub.queues = NoQueues(UNSHARED)

    async def run() -> None:
        await rooms.run()
        sentence = f"the link to the first process is gone, and with it messages of this worker: {rooms.waiting}"
        logs.server_line(logging.ERROR, FAULT, sentence)
        on_gone()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(run)
        try:
            await rooms.start()
            yield shards
            with trio.move_on_after(FLUSH_S):
                await shards.flush()
        finally:
            hub.backplane = None
            nursery.cancel_scope.cancel()
            if shards.waiting:
                message = f"accepted messages that are lost, since the backplane is away: {shards.waiting}"
                logs.server_line(logging.ERROR, FAULT, message)
