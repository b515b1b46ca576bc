"""The interface of a backplane, the store through which the messages of a shared room go to all nodes.

A room lies below the store, and needs only this interface. `rawws.backplane.redis_streams` implements it, and
`rawws.backplane.sharing` gives it to a hub.
"""

from __future__ import annotations

from typing import Protocol, TypeVar

from rawws.broadcast.message_ids import MessageId
from rawws.broadcast.outbox import Outgoing
from rawws.errors import RETRY_SOON, Refusal

AWAY = Refusal(
    503,
    "backplane_away",
    "The rooms can't be reached just now; try again.",
    RETRY_SOON,
)

Room = TypeVar("Room", contravariant=True)


class Backplane(Protocol[Room]):
    """The store to which every node gives the messages that are published in its rooms, and from which all read them.

    A room that has a backplane (`RoomState.shared`) doesn't append the messages of its members and its program to its
    log. It gives them to `publish`. They come back in an order that is the same on all nodes, and are then appended.
    """

    @property
    def is_away(self) -> bool:
        """Whether the store can't be reached at present."""

    @property
    def is_full(self) -> bool:
        """Whether publishers should wait, because too much waits for the store."""

    @property
    def waiting(self) -> int:
        """The number of messages on their way to the store."""

    async def ready(self) -> None:
        """Wait until `is_full` is false."""

    async def flush(self) -> None:
        """Wait until no message is on its way any more."""

    def publish(self, message: Outgoing) -> None:
        """Accept a message, even when `is_full` is true. The message itself reports its fate.

        Raises `UsageError` for a key that UTF-8 can't encode.
        """

    def withdraw(self, message: Outgoing) -> bool:
        """Drop a message that has not been sent to the store yet; return False when it is too late for that."""

    def follow(self, room: Room) -> None:
        """Append the messages that are published in a room to its log, until nobody uses the room any more."""

    async def prepare(self, room: Room, since: MessageId | None = None) -> Refusal | None:
        """Follow a room, and wait until its log has the room's history and every message up to ``since``.

        Returns a refusal when the store can't provide that.
        """
