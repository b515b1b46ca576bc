"""Sharing the rooms of a hub with other nodes, through Redis."""

from __future__ import annotations

import logging
import os
from collections.abc import AsyncGenerator, Iterable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import trio

from rawws import logs
from rawws.broadcast.node_answers import NodeName
from rawws.errors import UsageError
from rawws.hub.hub import Hub
from rawws.hub.shards import Shards
from rawws.net.addresses import name_this_process
from rawws.runtime import check_runs_on_trio
from rawws.wire.trace import FAULT

if TYPE_CHECKING:
    from rawws.backplane.redis_streams import RedisStreams

# When a node ends, it waits for at most this time for messages that are still on their way.
FLUSH_S = 3.0


@asynccontextmanager
@trio.lowlevel.enable_ki_protection
async def share(hub: Hub, url: str, *more: str) -> AsyncGenerator[Shards]:
    """Share a hub's rooms with every other node that has the same Redis, as long as the block runs.

    ``url`` is ``redis://``, ``rediss://`` or ``unix://``, or ``redis+sentinel://host:port,host:port/SERVICE``. A
    message that is published in a room goes to the room's stream, and from there to the peers of every node, in one
    order. The block starts when Redis is usable, or after five seconds if it is away. While Redis is away, peers stay,
    and clients that connect or publish are asked to try again. With ``more`` URLs the rooms are spread over several
    Redises; every node has to be given the same URLs.

    At the end of the block, this waits for a few seconds until all accepted messages are published. Messages that are
    not published by then are lost, and so are all when the block is cancelled; the log has their number.

    Raises `rawws.UsageError` when coredis is not installed, a URL is invalid, the hub has a store, there are rooms
    already (they would not be shared), or the server at the URL can never be used, such as a Redis Cluster, or a Redis
    that refuses the user.
    """
    check_runs_on_trio("rawws.share")
    from rawws.backplane.redis_streams import RedisStreams  # programs without a backplane need not load it

    if "local:" in (url, *more):
        raise UsageError("local: is for the workers of rawws serve; a program gives the URL of a Redis")
    if hub.store is not None:
        raise UsageError("this hub has a store, so it can't be shared: Redis keeps the messages; leave out one of them")
    if hub.rooms:
        raise UsageError("there are rooms already, which would not be shared; share a hub before anybody is in it")
    name = NodeName(os.urandom(6).hex(), name_this_process())
    shards = {each: RedisStreams(each, hub.refuse_room, name, hub.commands) for each in (url, *more)}
    backplane = Shards(shards)
    hub.share_through(backplane)
    async with trio.open_nursery() as nursery:
        for each in shards.values():
            nursery.start_soon(each.run)
        try:
            if not (unusable := await _start(shards.values())):
                yield backplane
                with trio.move_on_after(FLUSH_S):
                    await backplane.flush()
                await _leave(shards.values())
        finally:
            hub.backplane = None
            nursery.cancel_scope.cancel()
            if backplane.waiting:
                message = f"accepted messages that are lost, since the backplane is away: {backplane.waiting}"
                logs.server_line(logging.ERROR, FAULT, message)
            if lost := sum(each.waiting_commands for each in shards.values()):
                message = f"commands that no other node gets, since the backplane is away: {lost}"
                logs.server_line(logging.ERROR, FAULT, message)
    if unusable:
        raise UsageError(unusable)


async def _start(shards: Iterable[RedisStreams]) -> str:
    """Wait for all shards. Return the reason why one of them can't be a backplane; an empty string if all can."""
    found: list[str] = []

    async def start(shard: RedisStreams) -> None:
        if unusable := await shard.start():
            found.append(unusable)
            nursery.cancel_scope.cancel()

    async with trio.open_nursery() as nursery:
        for shard in shards:
            nursery.start_soon(start, shard)
    return found[0] if found else ""


async def _leave(shards: Iterable[RedisStreams]) -> None:
    async with trio.open_nursery() as nursery:
        for shard in shards:
            nursery.start_soon(shard.leave)
