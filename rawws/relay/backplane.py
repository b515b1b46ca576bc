"""The interface of a backplane, the store through which the messages of a shared room go to all nodes.

A room lies below the store, and needs only this interface. `rawws.backplane.redis_streams` implements it, and
`rawws.backplane.sharing` gives it to a hub.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, Protocol, TypeVar

from rawws.broadcast.message_ids import Ids, MessageId
from rawws.broadcast.node_answers import Gathered
from rawws.broadcast.node_commands import Command
from rawws.broadcast.outbox import Outgoing
from rawws.errors import RETRY_SOON, Refusal, UsageError

AWAY = Refusal(
    503,
    "backplane_away",
    "The rooms can't be reached just now; try again.",
    RETRY_SOON,
)

Room = TypeVar("Room", contravariant=True)
ConcernedRoom = TypeVar("ConcernedRoom", covariant=True)


def check_key(key: str | None) -> None:
    """Raises `UsageError` for the key of a message that can't be sent."""
    try:
        (key or "").encode()
    except UnicodeEncodeError as error:
        why = f"a message's key is sent as UTF-8, which can't encode {key!r}: {error.reason}"
        raise UsageError(why) from None


class Backplane(Protocol[Room]):
    """The store to which every node gives the messages that are published in its rooms, and from which all read them.

    A room that has a backplane (`RoomState.shared`) doesn't append the messages of its members and its program to its
    log. It gives them to `take`. They come back in an order that is the same on all nodes, and are then appended. With
    a store on this machine alone (`rawws.store.stored_rooms`), they come back when they are safe there.
    """

    @property
    def is_away(self) -> bool:
        """Whether the store can't be reached at present."""

    @property
    def trouble(self) -> str:
        """The reason why nothing can be published at present; empty if something can."""

    @property
    def refusal(self) -> Refusal | None:
        """The answer to a POST at present; None if messages are taken."""

    @property
    def is_full(self) -> bool:
        """Whether publishers should wait, because too much waits for the store."""

    @property
    def refuses(self) -> bool:
        """Whether nothing is taken until the program is started again, so that it is no use to wait."""

    @property
    def waiting(self) -> int:
        """The number of messages on their way to the store."""

    async def ready(self) -> None:
        """Wait until `is_full` is false."""

    async def flush(self) -> None:
        """Wait until no message is on its way any more."""

    def take(self, room: Room, frames: Sequence[bytes | bytearray], sender: int, key: str | None = None) -> int:
        """Accept encoded messages of one sender, even when `is_full` is true, and return how many there are.

        Raises `UsageError` for a key that UTF-8 can't encode.
        """

    def publish(self, message: Outgoing) -> None:
        """Accept a message as `take` does. The message itself reports its fate."""

    def withdraw(self, message: Outgoing) -> bool:
        """Drop a message that has not been sent to the store yet; return False when it is too late for that."""

    async def clear(self, room: Room) -> Refusal | None:
        """Forget a room's history at the request of an operator, or return why that can't be done."""

    def ids_before_loading(self) -> Ids | None:
        """Return the ids of a room whose messages were not read yet; None for ids of its own."""

    def follow(self, room: Room) -> bool:
        """Append the messages that are published in a room to its log, until nobody uses the room any more.

        Return whether members can be put into the room. If not, its history is being read, and the room is told when
        that is done (`RoomBase.begin_waiting`).
        """

    async def prepare(self, room: Room, since: MessageId | None = None) -> Refusal | None:
        """Follow a room, and wait until its log has the room's history and every message up to ``since``.

        Returns a refusal when the store can't provide that.
        """

    def tell(self, kind: str, body: Mapping[str, Any]) -> None:
        """Send a command to all other nodes, after everything that this node has published before.

        Raises `UsageError` for a body that is too large, and `BackplaneAway` if the store is away and too many commands
        wait for it already.
        """

    async def ask(self, kind: str, body: Mapping[str, Any], timeout_s: float) -> Gathered:
        """Ask all other nodes, and return what they have answered within some time."""


class CommandTaker(Protocol[ConcernedRoom]):
    """The part of a node that carries out the commands of other nodes. A backplane gives them to it."""

    def fault_of(self, command: Command) -> str:
        """Return why a command can't be carried out; an empty string if it can."""

    def rooms_for(self, commands: Sequence[Command], backplane: Backplane[ConcernedRoom]) -> Collection[ConcernedRoom]:
        """Return the rooms of a backplane that some commands concern.

        The messages that were published there before the commands should be read before they are carried out.
        """

    async def carry_out(self, commands: Sequence[Command], backplane: Backplane[ConcernedRoom]) -> None:
        """Carry out commands that are no questions, in the rooms of the backplane through which they have come."""

    async def answer(self, question: Command) -> Iterable[object]:
        """Return the items of the answer to a question, as JSON can hold them."""
