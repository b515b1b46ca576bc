"""The entries that go into a store, and the records that come out of it.

The unit of a store is the *record*: messages that one sender has published in one room in one turn, as their encoded
frames. The messages of a room have contiguous numbers from 1 on, which are never given twice within the room's epoch.
A number that is missing between two records is a message that was lost.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple, TypeAlias

from rawws.broadcast.idempotency import IdempotencyKey
from rawws.broadcast.log import History


@dataclass(frozen=True, slots=True)
class Append:
    """Messages to be appended to a room, in their order. The engine numbers them."""

    path: str
    frames: bytes  # whole frames, without mask and not compressed
    messages: int  # the number of messages in them
    history: History  # the room's, by which the engine may forget older records
    key: str | None = None  # of all of these messages (Rawws-Key)
    once: IdempotencyKey | None = None  # of the only message
    digest: str = ""  # of the message that the Idempotency-Key stands for
    # The epoch and the last number of the room, as somebody knows them who uses it. If the room was forgotten
    # meanwhile, it goes on from there.
    known: tuple[str, int] | None = None
    most_rooms: int | None = None  # if there are as many already, no room is made for it


class Job(NamedTuple):
    """A message that a group has taken and not finished yet."""

    number: int  # of the message
    tries: int  # deliveries up to now
    due: float  # in seconds since 1970: the end of its lease, or the earliest time of its next delivery
    lease: str  # a name for the lease; empty while nobody has it


@dataclass(frozen=True, slots=True)
class GroupWrite:
    """A change in the state of a group. The group is made by its first one."""

    path: str
    group: str
    position: int  # the group has taken all messages up to this number
    jobs: tuple[Job, ...] = ()  # new ones, and those that have changed
    done: tuple[int, ...] = ()  # the numbers of the jobs that are finished


@dataclass(frozen=True, slots=True)
class GroupEnd:
    """The end of a group: its state is forgotten."""

    path: str
    group: str


@dataclass(frozen=True, slots=True)
class Clear:
    """Forget the messages of a room up to a number, except those that a group still needs. The ids go on."""

    path: str
    up_to: int


@dataclass(frozen=True, slots=True)
class Keep:
    """Somebody uses a room, or has just used it: it isn't forgotten for a while, even if nothing is left in it."""

    path: str


Entry: TypeAlias = Append | GroupWrite | GroupEnd | Clear | Keep


class Outcome(NamedTuple):
    """The result of an entry that was committed; for an `Append`, with the id of its first message."""

    epoch: str = ""
    first: int = 0
    is_repeat: bool = False  # its Idempotency-Key is known: nothing was appended, and ``first`` is the earlier message
    is_reused: bool = False  # its Idempotency-Key was used for another message: nothing was appended
    is_refused: bool = False  # there are ``most_rooms``: nothing was appended

    @property
    def is_stored(self) -> bool:
        """Whether messages were appended, if it is the outcome of an `Append`."""
        return not (self.is_repeat or self.is_reused or self.is_refused)


class Record(NamedTuple):
    """Messages of a room as they were stored, or a stretch of messages that is lost (``frames`` is None)."""

    first: int  # the number of the first message
    messages: int
    at: float  # the time of the commit, in seconds since 1970
    frames: bytes | None
    key: str | None = None

    @property
    def last(self) -> int:
        """The number of the last message."""
        return self.first + self.messages - 1


class RoomTail(NamedTuple):
    """The present extent of a stored room."""

    epoch: str
    oldest: int  # the number of the oldest message that is kept; ``newest + 1`` if there is none
    newest: int  # the number of the last message that was ever stored; 0 for none


class Page(NamedTuple):
    """Consecutive records of a room, the oldest first, as they were at one moment."""

    tail: RoomTail
    records: tuple[Record, ...] = ()


@dataclass(frozen=True, slots=True)
class GroupState:
    """A group as it was stored."""

    path: str
    group: str
    position: int
    jobs: tuple[Job, ...] = field(default=())
