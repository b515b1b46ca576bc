"""What a hub needs in order to share its rooms with other nodes."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Protocol

import trio

from rawws import logs
from rawws.errors import RETRY_SOON, Refusal, UsageError
from rawws.runtime import check_runs_on_trio
from rawws.wire.frames import Opcode
from rawws.wire.message_ids import MessageId
from rawws.wire.outbox import Outgoing
from rawws.wire.trace import FAULT

if TYPE_CHECKING:
    from rawws.hub import Hub
    from rawws.redis import RedisStreams
    from rawws.room_state import RoomState
    from rawws.wire.broadcast_log import History

AWAY = Refusal(
    503,
    "backplane_away",
    "The rooms can't be reached just now; try again.",
    RETRY_SOON,
)


# Who leaves waits so long for what is still on its way.
FLUSH_S = 3.0


class Backplane(Protocol):
    """Where all that is published in a hub's rooms goes to first, and comes from, so that every node has the same.

    A room that has one (`RoomState.shared`) doesn't put into its log what is said in it: it gives it to `send_out`, and
    what comes back, in the order that is everybody's, is what the log gets.
    """

    @property
    def is_away(self) -> bool:
        """Whether it can't be reached just now."""

    @property
    def is_full(self) -> bool:
        """Whether so much waits for it that nobody should publish now."""

    @property
    def waiting(self) -> int:
        """How many messages are on their way to it."""

    async def ready(self) -> None:
        """Wait until it isn't full."""

    async def flush(self) -> None:
        """Wait until nothing is on its way any more."""

    def send_out(
        self,
        path: str,
        opcode: Opcode,
        payload: bytes,
        history: History,
        *,
        sender: int = 0,
        key: str | None = None,
        once: str = "",
        digest: str = "",
        on_done: Callable[[], None] | None = None,
    ) -> Outgoing:
        """Take a message that is to be published, however full it is.

        ``history`` is the room's, by which the store may forget; ``sender`` is the number of the connection that it
        came from. What has the same ``once`` in the same room is published once, whichever nodes it is given to, and
        ``digest`` tells whether it was the same message.
        """

    def take_back(self, message: Outgoing) -> bool:
        """Forget a message that has not gone out yet; False when that is too late."""

    def follow(self, room: RoomState) -> None:
        """Have what is published in a room put into its log from now on, as long as somebody is there."""

    async def prepare(self, room: RoomState, since: MessageId | None = None) -> Refusal | None:
        """Follow a room, and wait until its log has what the history has, and all up to ``since``.

        Returns why that can't be had, if it can't.
        """


class Shards:
    """The backplane or backplanes of a hub: each room is on one, the same on every node that is given the same ones.

    Which one that is depends on the room's path and on what each is called, and not on their order. With one more, each
    gives up its part of the rooms and no others move (rendezvous hashing).
    """

    def __init__(self, shards: Mapping[str, Backplane]) -> None:
        self._shards = shards

    def __repr__(self) -> str:
        return f"<Shards {', '.join(map(repr, self._shards.values()))}>"

    def of(self, path: str) -> Backplane:
        """Return the one that has a room."""
        return self._shards[max(self._shards, key=lambda name: _weigh(name, path))]

    @property
    def is_away(self) -> bool:
        """Whether any of them can't be reached just now."""
        return any(shard.is_away for shard in self._shards.values())

    @property
    def waiting(self) -> int:
        """How many messages are on their way to them."""
        return sum(shard.waiting for shard in self._shards.values())

    async def flush(self) -> None:
        """Wait until nothing is on its way any more."""
        for shard in self._shards.values():
            await shard.flush()


def _weigh(name: str, path: str) -> bytes:
    return hashlib.blake2b(f"{name}\n{path}".encode(), digest_size=8).digest()


@asynccontextmanager
@trio.lowlevel.enable_ki_protection
async def share(hub: Hub, url: str, *more: str) -> AsyncGenerator[Shards]:
    """Share a hub's rooms with every other node that has the same Redis, as long as the block runs.

    ``url`` is ``redis://``, ``rediss://`` or ``unix://``, or ``redis+sentinel://host:port,host:port/SERVICE``. What
    is published in a room then goes to the room's stream, and from there to the peers of every node, in one order.
    The block begins when Redis is usable, or after five seconds if it is away. While Redis is away, peers stay, and
    clients that connect or publish are asked to try again. With ``more`` URLs the rooms are spread over several of
    them; every node has to be given the same.

    Left in order, it waits a little until all that was accepted is published; what isn't is lost, as it is when the
    block is cancelled, and the log says how much that was. Raises `rawws.UsageError` when coredis is not installed, a
    URL is invalid, there are rooms already, which would not be shared, or the server at the URL can never be used, such
    as a Redis Cluster, or a Redis that refuses the user.
    """
    check_runs_on_trio("rawws.share")
    from rawws.redis import RedisStreams

    if hub.rooms:
        raise UsageError("there are rooms already, which nobody would share; share a hub before anybody is in it")
    node = os.urandom(6).hex()
    shards = {each: RedisStreams(each, hub, node) for each in (url, *more)}
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
        finally:
            hub.backplane = None
            nursery.cancel_scope.cancel()
            if backplane.waiting:
                told = f"messages that were accepted and are lost, since the backplane is away: {backplane.waiting}"
                logs.line(logs.server, logging.ERROR, logs.SERVER, FAULT, told)
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
