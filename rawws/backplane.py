"""What a hub needs in order to share its rooms with other nodes."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Protocol

import trio

from rawws.errors import Refusal
from rawws.wire.frames import Opcode
from rawws.wire.message_ids import MessageId
from rawws.wire.outbox import Outgoing

if TYPE_CHECKING:
    from rawws.hub import Hub
    from rawws.room import Room

AWAY = Refusal(
    503,
    "backplane_away",
    "The rooms can't be reached just now; try again.",
    ((b"Retry-After", b"1"),),
)


class Backplane(Protocol):
    """Where all that is published in a hub's rooms goes to first, and comes from, so that every node has the same.

    A room that has one (`Room.shared`) doesn't put into its log what is said in it: it gives it to `send_out`, and
    what comes back, in the order that is everybody's, is what the log gets.
    """

    @property
    def is_away(self) -> bool:
        """Whether it can't be reached just now."""

    @property
    def is_full(self) -> bool:
        """Whether so much waits for it that nobody should publish now."""

    async def ready(self) -> None:
        """Wait until it isn't full."""

    def send_out(
        self,
        path: str,
        opcode: Opcode,
        payload: bytes,
        *,
        sender: int = 0,
        key: str | None = None,
        once: str = "",
        digest: str = "",
        on_done: Callable[[], None] | None = None,
    ) -> Outgoing:
        """Take a message that is to be published, however full it is.

        ``sender`` is the number of the connection that it came from. What has the same ``once`` in the same room is
        published once, whichever nodes it is given to, and ``digest`` tells whether it was the same message.
        """

    def take_back(self, message: Outgoing) -> bool:
        """Forget a message that has not gone out yet; False when that is too late."""

    def follow(self, room: Room) -> None:
        """Have what is published in a room put into its log from now on, as long as somebody is there."""

    async def prepare(self, room: Room, since: MessageId | None = None) -> Refusal | None:
        """Follow a room, and wait until its log has what the history has, and all up to ``since``.

        Returns why that can't be had, if it can't.
        """


@asynccontextmanager
async def share(hub: Hub, url: str) -> AsyncGenerator[Backplane]:
    """Share a hub's rooms with every other node that has the same Redis, as long as the block runs.

    ``url`` is ``redis://``, ``rediss://`` or ``unix://``, or ``redis+sentinel://host:port,host:port/SERVICE``. What
    is published in a room then goes to the room's stream, and from there to the peers of every node, in one order.
    Redis may be away, also at the beginning: peers stay, and those who come or publish are told to try again.

    Cancelled, or left, it forgets what had not gone out yet. Raises `rawws.UsageError` when the extra is missing
    (``pip install 'rawws[redis]'``), or the URL can't be one.
    """
    from rawws.redis import RedisStreams

    streams = RedisStreams(url, hub)
    async with trio.open_nursery() as nursery:
        await nursery.start(streams.run)
        hub.backplane = streams
        with contextlib.ExitStack() as stack:
            stack.callback(nursery.cancel_scope.cancel)
            stack.callback(setattr, hub, "backplane", None)
            yield streams
