"""The rooms and connections of a hub as an operator sees and ends them, on one node or several.

An answer is gathered from *nodes*, the processes that share the rooms: this one (`HubNode`), and any others (`Nodes`).
The entries have an order that doesn't change: by node, and then by path or number. So a long list is read in pieces,
and a piece begins after the last entry of the one before: entries that come and go meanwhile move no others.

There may be a hundred thousand connections. A node looks at a few of them at a time, between which others are served,
and keeps no more of them than are asked for.
"""

from __future__ import annotations

import hashlib
import heapq
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from itertools import chain
from typing import Any, Generic, Protocol, TypeAlias, TypeVar

import trio

from rawws.access.grant import MAX_USER_CHARACTERS, Grant
from rawws.errors import BackplaneAway, UsageError
from rawws.hub.hub import Hub
from rawws.hub.member import Member
from rawws.hub.queues import GroupWorker
from rawws.hub.waiting_polls import WaitingPoll
from rawws.net.addresses import format_address
from rawws.relay.leases import ENDS_AT_ONCE, PAUSE_S
from rawws.relay.loop import current_loop
from rawws.relay.peer import Peer
from rawws.relay.room_state import RoomState
from rawws.wire.events import CloseFrame

# The entries of one piece of a list.
USUAL_ENTRIES = 100
MAX_ENTRIES = 1000
# The connections or rooms that are looked at in a row, which takes less than a millisecond.
LOOKED_AT = 500
# A program may have a connection join any number of rooms. This many of them are shown.
MAX_SHOWN_ROOMS = 10


# A longer path has a shorter key: a place is sent in the target of a request, and to other nodes in a command.
MAX_KEY = 500

Key = TypeVar("Key", str, int)  # of a room, its `room_key`; of a connection, its number


def room_key(path: str) -> str:
    """Return the key of a room in lists: its path, or the beginning of one that is long and a hash of all of it."""
    if len(path) <= MAX_KEY:
        return path
    return path[:MAX_KEY] + hashlib.blake2b(path.encode(), digest_size=16).hexdigest()


@dataclass(frozen=True, slots=True)
class Place(Generic[Key]):
    """A place in a list: after the entry of a node with this key. A node's name has no slash."""

    node: str
    key: Key

    def __str__(self) -> str:
        return f"{self.node}{self.key}" if isinstance(self.key, str) else f"{self.node}/{self.key}"


@dataclass(frozen=True, slots=True)
class RoomsWanted:
    """The rooms that are asked for: at most ``limit`` of them, after a place.

    If they are given, only those of one node, and only one room.
    """

    limit: int = USUAL_ENTRIES
    after: Place[str] | None = None
    node: str | None = None
    room: str | None = None


@dataclass(frozen=True, slots=True)
class PeersWanted:
    """The connections that are asked for: all, or those of a node, of a user, with a number, or in a room."""

    limit: int = USUAL_ENTRIES
    after: Place[int] | None = None
    node: str | None = None
    user: str | None = None
    number: int | None = None
    room: str | None = None

    def wants(self, number: int, user: object, rooms: Iterable[str]) -> bool:
        """Say whether a connection is one of them, by what it is and not by its place."""
        if self.number is not None and self.number != number:
            return False
        if self.user is not None and self.user != name_user(user):
            return False
        return self.room is None or self.room in rooms


@dataclass(frozen=True, slots=True)
class RoomEntry:
    """A room of a node. ``messages`` and ``bytes`` are those of its history."""

    room: str
    node: str
    websockets: int
    events: int
    polls: int
    messages: int
    bytes: int
    last_id: str

    @property
    def place(self) -> Place[str]:
        return Place(self.node, room_key(self.room))


@dataclass(frozen=True, slots=True)
class PeerEntry:
    """A connection at a node that reads rooms; ``kind`` is ``websocket``, ``events`` or ``poll``."""

    number: int
    node: str
    user: str | None
    rooms: Sequence[str]
    kind: str
    address: str
    since: str  # ISO 8601, in UTC

    @property
    def place(self) -> Place[int]:
        return Place(self.node, self.number)


@dataclass(frozen=True, slots=True)
class WorkerEntry(PeerEntry):
    """A connection at a node that takes the messages of a room as jobs; ``kind`` is ``worker``."""

    group: str
    jobs: int  # that it has at present


Entry = TypeVar("Entry", RoomEntry, PeerEntry)
Answer = TypeVar("Answer")


@dataclass(frozen=True, slots=True)
class Page(Generic[Entry]):
    """The piece of a list that a node has, in order, and the place where its list goes on; None at its end.

    ``silent`` has the nodes that haven't answered, whose entries are missing.
    """

    node: str
    entries: Sequence[Entry] = ()
    next: Place[Any] | None = None
    silent: Sequence[str] = ()


class Nodes(Protocol):
    """One node or several: this one, or others that share the rooms. Each is asked the same, and has its own answer."""

    async def list_rooms(self, wanted: RoomsWanted) -> Sequence[Page[RoomEntry]]:
        """Return the rooms of each node, in the order of their keys."""

    async def list_peers(self, wanted: PeersWanted) -> Sequence[Page[PeerEntry]]:
        """Return the connections of each node, in the order of their numbers."""

    async def disconnect(self, wanted: PeersWanted, close: CloseFrame) -> Mapping[str, int]:
        """End connections, whatever the limit, and return how many at each node."""


async def gather_rooms(nodes: Iterable[Nodes], wanted: RoomsWanted) -> Page[RoomEntry]:
    """Ask all nodes at once for their rooms, and return them as one list."""
    return merge(
        chain.from_iterable(await _ask_all([partial(each.list_rooms, wanted) for each in nodes])), wanted.limit
    )


async def gather_peers(nodes: Iterable[Nodes], wanted: PeersWanted) -> Page[PeerEntry]:
    """Ask all nodes at once for their connections, and return them as one list."""
    return merge(
        chain.from_iterable(await _ask_all([partial(each.list_peers, wanted) for each in nodes])), wanted.limit
    )


async def disconnect(nodes: Iterable[Nodes], wanted: PeersWanted, close: CloseFrame) -> dict[str, int]:
    """End connections at all nodes, and return how many at each.

    An error of one, such as `BackplaneAway`, is raised when all others have ended theirs.
    """
    counts = await _ask_all([partial(each.disconnect, wanted, close) for each in nodes])
    return dict(sorted(chain.from_iterable(each.items() for each in counts)))


async def _ask_all(asks: Iterable[Callable[[], Awaitable[Answer]]]) -> list[Answer]:
    """Ask at once, and return the answers. An error that a caller can understand is raised after all have answered."""
    answers: list[Answer] = []
    errors: list[UsageError | BackplaneAway] = []

    async def ask_one(ask: Callable[[], Awaitable[Answer]]) -> None:
        try:
            answers.append(await ask())
        except (UsageError, BackplaneAway) as error:  # not for the nursery, which would cancel the others
            errors.append(error)

    async with trio.open_nursery() as nursery:
        for ask in asks:
            nursery.start_soon(ask_one, ask)
    if errors:
        raise errors[0]
    return answers


def merge(pages: Iterable[Page[Entry]], limit: int) -> Page[Entry]:
    """Return the pages of several nodes as one, with at most ``limit`` entries."""
    entries: list[Entry] = []
    pages = sorted(pages, key=lambda page: page.node)
    silent = [name for page in pages for name in page.silent]
    for page in pages:
        if len(entries) == limit and (page.entries or page.next is not None):
            return Page("", entries, entries[-1].place, silent)
        taken = page.entries[: limit - len(entries)]
        entries += taken
        if len(taken) < len(page.entries):
            return Page("", entries, entries[-1].place, silent)
        if page.next is not None:  # a later node's entries would come before the rest of this one's
            return Page("", entries, page.next, silent)
    return Page("", entries, None, silent)


_Listed: TypeAlias = Peer | WaitingPoll | GroupWorker


class HubNode:
    """The rooms and connections of a hub in this process."""

    def __init__(self, hub: Hub, name: str) -> None:
        self._hub = hub
        self.name = name

    def _begin(self, node: str | None, after: Place[Key] | None, beginning: Key) -> Key | None:
        """Return the key after which our entries are asked for; None if they aren't."""
        if node not in (None, self.name) or (after is not None and self.name < after.node):
            return None
        return after.key if after is not None and self.name == after.node else beginning

    async def list_rooms(self, wanted: RoomsWanted) -> Sequence[Page[RoomEntry]]:
        after = self._begin(wanted.node, wanted.after, "")
        if after is None:
            return []
        in_use = self._hub.registry.in_use
        paths = list(in_use) if wanted.room is None else [wanted.room]
        first: list[str] = []
        for some in _in_steps(paths):
            following = (path for path in some if room_key(path) > after)
            first = heapq.nsmallest(wanted.limit + 1, [*first, *following], key=room_key)
            await trio.lowlevel.checkpoint()
        rooms: list[RoomEntry] = []
        for some in _in_steps(first[: wanted.limit]):
            rooms += [self._describe_room(room) for path in some if (room := in_use.get(path)) is not None]
            await trio.lowlevel.checkpoint()
        is_over = len(first) <= wanted.limit
        return [Page(self.name, rooms, None if is_over else Place(self.name, room_key(first[wanted.limit - 1])))]

    def _describe_room(self, room: RoomState) -> RoomEntry:
        readers = room.readers
        return RoomEntry(
            room.path,
            self.name,
            readers["websocket"],
            readers["events"],
            readers["poll"],
            room.history_messages,
            room.log.history_bytes,
            room.last_id,
        )

    async def list_peers(self, wanted: PeersWanted) -> Sequence[Page[PeerEntry]]:
        after = self._begin(wanted.node, wanted.after, 0)
        if after is None:
            return []
        first: list[_Listed] = []
        for some in _in_steps(self._everybody()):
            found = (each for each in some if each.number > after and self._is_wanted(each, wanted))
            first = heapq.nsmallest(wanted.limit + 1, [*first, *found], key=lambda each: each.number)
            await trio.lowlevel.checkpoint()
        entries: list[PeerEntry] = []
        for some in _in_steps(first[: wanted.limit]):
            entries += [self._describe(each) for each in some if self._is_wanted(each, wanted)]
            await trio.lowlevel.checkpoint()
        is_over = len(first) <= wanted.limit
        return [Page(self.name, entries, None if is_over else Place(self.name, first[wanted.limit - 1].number))]

    def _everybody(self) -> list[_Listed]:
        # A worker with a WebSocket is a peer, too, but in no room.
        return [*current_loop().peers.values(), *self._hub.polls, *self._hub.queues.workers()]

    def _is_wanted(self, each: _Listed, wanted: PeersWanted) -> bool:
        if not isinstance(each, Peer):
            is_here = each.refusal is None if isinstance(each, WaitingPoll) else each.is_here
            return is_here and wanted.wants(each.number, each.user, (each.room,))
        in_use = self._hub.registry.in_use
        # A peer that is being closed has left its rooms, and one of another hub, or of no room, isn't this hub's.
        if not any(in_use.get(room.path) is room for room in each.rooms):
            return False
        user = each.about.user if each.inbox is None else Member(each).user
        return wanted.wants(each.number, user, (room.path for room in each.rooms))

    def _describe(self, each: _Listed) -> PeerEntry:
        if not isinstance(each, Peer):
            rooms, kind, since = [each.room], "poll" if isinstance(each, WaitingPoll) else "worker", each.since
            user, address = each.user, each.remote_address
        else:
            rooms = [room.path for room in each.rooms[:MAX_SHOWN_ROOMS]]
            kind, since = each.encoding.label, each.transport.connected_at
            member = Member(each)
            user, address = member.user, member.remote_address
        at = datetime.fromtimestamp(since, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        facts = (each.number, self.name, name_user(user), rooms, kind, format_address(address), at)
        if isinstance(each, Peer | WaitingPoll):
            return PeerEntry(*facts)
        return WorkerEntry(*facts, each.group, each.jobs)

    async def disconnect(self, wanted: PeersWanted, close: CloseFrame) -> Mapping[str, int]:
        """End connections. Many are ended a few at a time, as at the end of a lease."""
        if wanted.node not in (None, self.name):
            return {}
        ended = 0
        for some in _in_steps(self._everybody()):
            for each in some:
                if self._is_wanted(each, wanted):
                    self._end(each, close)
                    ended += 1
                    if ended % ENDS_AT_ONCE == 0:
                        await trio.sleep(PAUSE_S)
            await trio.lowlevel.checkpoint()
        return {self.name: ended}

    @staticmethod
    def _end(each: _Listed, close: CloseFrame) -> None:
        if isinstance(each, Peer):
            current_loop().close(each, *close)
        elif isinstance(each, WaitingPoll):
            each.end(close.reason)
        else:
            each.close(*close)


Item = TypeVar("Item")


def _in_steps(items: Sequence[Item]) -> Iterator[Sequence[Item]]:
    """Yield items some at a time. After each time, other tasks are to run."""
    return (items[at : at + LOOKED_AT] for at in range(0, len(items), LOOKED_AT))


def name_user(user: object) -> str | None:
    """Return a user's name, as an operator has it; None for a client without one.

    A program's ``authenticate`` may return anything. A text is a name, and a number is one too.
    """
    name = user.user if isinstance(user, Grant) else user
    if isinstance(name, int) and not isinstance(name, bool):
        return str(name) if abs(name) < 1 << 64 else None
    return name if isinstance(name, str) and name.isprintable() and 0 < len(name) <= MAX_USER_CHARACTERS else None
