"""The interface of a backplane: the store that a room's messages go through when several nodes share the room.

A room, which lies below, needs only this interface. `rawws.backplane.redis_streams` implements it, and
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
    """The store to which every node gives what is published in its rooms, and from which every node reads it.

    A room that has a backplane (`RoomState.shared`) doesn't append to its log what its members and its program publish.
    It gives that to `publish`. What comes back, in an order that is the same on all nodes, is appended to the log.
    """

    @property
    def is_away(self) -> bool:
        """Whether the store can't be reached at present."""

    @property
    def is_full(self) -> bool:
        """Whether so much waits for the store that publishers should wait."""

    @property
    def waiting(self) -> int:
        """The number of messages on their way to the store."""

    async def ready(self) -> None:
        """Wait until `is_full` is false."""

    async def flush(self) -> None:
        """Wait until no message is on its way any more."""

    def publish(self, message: Outgoing) -> None:
        """Accept a message, even when `is_full` is true. The message itself reports what becomes of it.

        Raises `UsageError` for a key that UTF-8 can't encode.
        """

    def withdraw(self, message: Outgoing) -> bool:
        """Drop a message that has not been sent to the store yet; return False when it is too late for that."""

    def follow(self, room: Room) -> None:
        """Append to a room's log what is published in it, from now on until nobody uses the room."""

    async def prepare(self, room: Room, since: MessageId | None = None) -> Refusal | None:
        """Follow a room, and wait until its log has the room's history, and everything up to ``since``.

        Returns a refusal when the store can't provide that.
        """
