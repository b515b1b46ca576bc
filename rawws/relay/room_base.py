"""The state of a room: its log, its members by encoding, and all else that it keeps.

It lies below `rawws.relay.peer`, which imports it, so it is generic in its members.
`rawws.relay.room_state.RoomState` is the room whose members are peers.
"""

from __future__ import annotations

import math
import weakref
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Generic, Protocol, TypeVar

import trio

from rawws.broadcast.encodings import Encoding
from rawws.broadcast.idempotency import IdempotencyKey, Repeat, Repeats
from rawws.broadcast.log import BroadcastLog, Cursor
from rawws.broadcast.message_ids import Ids
from rawws.broadcast.polled import Polled
from rawws.broadcast.query import RoomQuery
from rawws.broadcast.sender_runs import SenderRuns
from rawws.broadcast.start_position import StartPosition
from rawws.relay.backplane import Backplane
from rawws.relay.gates import READ_ONLY, Gate
from rawws.relay.polling import BETWEEN_POLLS_S, Poller, Polls, make_response
from rawws.relay.settings import RoomSettings
from rawws.relay.watchers import Watchers

# The memory of a room, without its path and its log's segments (measured).
ROOM_BYTES = 2600

NOBODY = 0  # the sender of a program's message


class Reader(Protocol):
    """The part of a member that the room knows. A member owns its position in the log while it lags."""

    number: int
    encoding: Encoding

    def cursor(self, room: RoomBase[Any]) -> Cursor: ...
    def cursor_in_use(self, room: RoomBase[Any]) -> Cursor: ...


Member = TypeVar("Member", bound=Reader)


class Registry(Protocol):
    """The rooms of a hub by path, to which each room reports whether it is in use."""

    def add(self, room: RoomBase[Any]) -> None:
        """Keep a room: it has a member, or keeps something for later. Harmless when it is kept already."""

    def keep(self, room: RoomBase[Any]) -> None:
        """Keep a room as `add` does, and expire what it keeps when that is too old."""

    def discard(self, room: RoomBase[Any]) -> None:
        """Stop keeping a room. Harmless when it isn't kept."""


class _LaggingReaders:
    """The positions of a room's lagging members, for its log. The room refers to the log, so this refers weakly."""

    __slots__ = ("_room",)

    def __init__(self, room: RoomBase[Any]) -> None:
        self._room = weakref.ref(room)

    def __call__(self) -> Iterator[tuple[Cursor, Encoding]]:
        """Yield the cursor and the encoding of each."""
        room = self._room()
        if room is None or not room.policy.reads_on:  # its peers have no place in a segment
            return
        for peer in room.lagging:
            yield peer.cursor_in_use(room), peer.encoding


class RoomBase(Generic[Member]):
    """The members and the log of one URL path. A member is either current or lagging.

    Nothing is sent from here. The methods that add and remove members return what the loop has to do then.
    """

    __slots__ = (
        "__weakref__",
        "_as_tuple",
        "_polls",
        "_registry",
        "_repeats",
        "_senders",
        "current",
        "facade",
        "gate",
        "holds",
        "joining",
        "kept_until",
        "lagging",
        "log",
        "path",
        "policy",
        "released",
        "settings",
        "shared",
        "watchers",
    )

    def __init__(
        self,
        path: str,
        settings: RoomSettings,
        registry: Registry,
        shared: Backplane[RoomBase[Member]] | None = None,
        gate: Gate | None = None,
        watchers: Watchers[Member] | None = None,
    ) -> None:
        self.path = path
        self.settings = settings
        self.policy = settings.policy(settings.key or "", settings.max_lag_bytes)
        self._senders: SenderRuns | None = SenderRuns() if self.settings.exclude_sender else None
        self.shared = shared  # the store to which messages go, instead of into the log
        self.log = self._make_log()
        # Members that have been sent everything, by their encoding. Their position is the log's tail.
        self.current: dict[Encoding, set[Member]] = {}
        # Lagging members. Each has a cursor of its own, and waits until its socket takes more.
        self.lagging: set[Member] = set()
        # Peers that become members as soon as the room's messages are there, and the functions that do it.
        self.joining: dict[Member, Callable[[], object]] = {}
        self._as_tuple: tuple[RoomBase[Member]] | None = None
        self._registry = registry
        # The object that a program holds. It belongs to the registry, which refers to it weakly while the room isn't in
        # use: the object refers to the room, and a cycle would have to wait for the garbage collector.
        self.facade: object = None
        self._polls: Polls | None = None  # while a poll is in progress
        self._repeats: Repeats | None = None  # the messages with an Idempotency-Key, if there are any
        # The members that are notified of each join and leave.
        self.watchers: Watchers[Member] = Watchers() if watchers is None else watchers
        # Decides about the messages of peers; None for a room that takes them all. Programs and POSTs don't pass it.
        self.gate: Gate | None = READ_ONLY if settings.read_only else gate
        self.kept_until = -math.inf  # for clients that poll, which are not here between two polls
        # The reasons why publishers have to wait at present. A peer counts as a publisher once it publishes while there
        # is a reason: its message is deferred, and no more is read from it. All other peers are read, since their
        # pings, pongs and closes can't wait.
        self.holds: set[str] = set()
        self.released = trio.lowlevel.ParkingLot()

    def _make_log(self) -> BroadcastLog:
        message_bytes = 0 if self._senders is None else self._senders.bytes_each
        return BroadcastLog(
            ids=None if self.shared is None else self.shared.ids_before_loading(),
            history=self.settings.history,
            message_bytes=message_bytes,
            in_use=_LaggingReaders(self),
        )

    def __repr__(self) -> str:
        return f"<RoomState {self.path} peers={len(self)} lagging={len(self.lagging)} {self.log!r}>"

    def __len__(self) -> int:
        """The number of members."""
        return sum(map(len, self.current.values())) + len(self.lagging)

    def __bool__(self) -> bool:
        return True  # a room that is empty is a room

    @property
    def peers(self) -> list[Member]:
        """The present members."""
        found = list(self.lagging)
        for peers in list(self.current.values()):  # each in one step, since another thread may call this
            found += peers
        return found

    @property
    def last_id(self) -> str:
        """The id of the newest message; if there is none, the id of the beginning."""
        return self.log.tail_id

    @property
    def is_held(self) -> bool:
        """Whether publishers have to wait."""
        return bool(self.holds)

    @property
    def is_refused(self) -> bool:
        """Whether nothing can be published until the program is started again."""
        return self.shared is not None and self.shared.refuses

    # For readers

    def begin_soon(self, member: Member, begin: Callable[[], object]) -> None:
        """Call a function that makes somebody a member: at once, or when the room's messages have been read.

        It isn't called if `forget_joining` is, before.
        """
        if self.shared is None or self.shared.follow(self):
            begin()
        else:
            self.joining[member] = begin

    def begin_waiting(self) -> None:
        """Make those members who have waited for the room's messages."""
        joining, self.joining = self.joining, {}
        for begin in joining.values():
            begin()

    def forget_joining(self, member: Member) -> None:
        """Don't make somebody a member who waits for the room's messages. Harmless for others."""
        self.joining.pop(member, None)

    def resolve(self, reading: RoomQuery) -> StartPosition:
        """Return the position at which a reader starts, and the gap before it if there is one."""
        if self.shared is not None:
            self.shared.follow(self)
        return StartPosition.find(self.log, reading, trio.current_time())

    def poll_response(self, after: int, gap: dict[str, str] | None) -> Polled:
        """Return the response to a poll for the messages after a number. Polls in progress share it."""
        if self._polls is None:
            return make_response(self.log, after, gap)
        return self._polls.response(self.log, after, gap)

    def poll(self, after: int) -> Poller:
        """Return a poll, as a context manager: within it, the room keeps the messages after a number.

        The room itself is kept for some time after the poll. Otherwise the next poll could not use the room's ids.
        """
        if self._polls is None:
            self._polls = Polls()
        self.kept_until = trio.current_time() + BETWEEN_POLLS_S
        self._registry.keep(self)
        return Poller(self._polls, self.log.number_of(after + 1), self._end_poll)

    def _end_poll(self) -> None:
        if not self._polls:
            self._polls = None
        self.trim()

    @property
    def excludes_sender(self) -> bool:
        """Whether a peer is not sent its own messages."""
        return self._senders is not None

    def segment_for(self, peer: Member, number: int) -> bytes:
        """Return a segment in a peer's encoding, without the peer's own messages if the room excludes senders."""
        return self.leave_out_own(peer, number, self.log.segment(number, peer.encoding))

    def leave_out_own(self, peer: Member, number: int, segment: bytes) -> bytes:
        """Return a segment, whose encoding has frames, without the peer's own messages if senders are excluded."""
        if self._senders is None:
            return segment
        return self._senders.leave_out(peer.number, segment, *self.log.span(number))

    def count_for(self, peer: Member, first: int, last: int) -> int:
        """Return how many of these messages a peer is sent."""
        own = 0 if self._senders is None else self._senders.count(peer.number, first, last)
        return last - first + 1 - own

    # For publishers

    async def ready(self) -> None:
        """Wait while publishers are held back, unless a backplane refuses everything: it raises an error."""
        while self.holds and not self.is_refused:
            await self.released.park()
        if self.shared is not None:
            await self.shared.ready()

    def add(self, frames: Sequence[bytes | bytearray], sender: int, key: str | None = None) -> int:
        """Append encoded messages of one sender, which are sealed and sent soon; return how many there are."""
        first = self.log.next_message
        self.log.append(frames)
        if key is not None:
            self.policy.note_key(range(first, self.log.next_message), key)
        if self._senders is not None:
            self._senders.add(self.log.next_message - 1, sender)
        return self.log.next_message - first

    def seal(self, at: float | None = None) -> bool:
        """Make one segment of the appended messages, or of the first of them; return False if there are none left.

        ``at`` is the time when they were published, if that isn't now.
        """
        log = self.log
        first = log.last_message + 1
        plain = log.seal(trio.current_time() if at is None else at)
        if plain is None:
            return False
        self.policy.note_sealed(first, plain)
        if self._polls is not None:
            self._polls.wake()
        if self.settings.history.messages:
            self._registry.keep(self)
        return True

    def seal_all(self) -> None:
        """Seal all appended messages. This is for a room without members, where nothing has to be sent."""
        while self.seal():
            pass
        self.trim()

    def find_idempotent(self, key: IdempotencyKey) -> Repeat | None:
        """Return the message that was published earlier with an Idempotency-Key, if it is still known."""
        return None if self._repeats is None else self._repeats.find(key, trio.current_time())

    def remember_idempotency_key(self, key: IdempotencyKey, digest: str) -> None:
        """Remember the newest message by its Idempotency-Key for a while. The room is kept for as long."""
        if self._repeats is None:
            self._repeats = Repeats()
        self._repeats.note(key, self.log.last_message, digest, trio.current_time())
        self._registry.keep(self)

    def change(self, settings: RoomSettings, gate: Gate) -> None:
        """Have another history and another gate from now on. All else of the settings has to be as it was."""
        self.settings, self.gate = settings, gate
        self.log.history = settings.history

    # For the backplane

    def share_through(self, backplane: Backplane[RoomBase[Member]]) -> None:
        """Send messages that are published here to a backplane from now on. The room has to be idle."""
        self.shared = backplane
        self.reset()

    @property
    def is_idle(self) -> bool:
        """Whether the room has no member and no poll in progress, and no client is expected to poll again."""
        return not len(self) and not self.joining and not self._polls and trio.current_time() >= self.kept_until

    def set_ids(self, ids: Ids) -> None:
        """Use other ids for the messages. There must be no message yet."""
        assert not self.log.next_message - 1, "there are messages with other ids"
        self.log.ids = ids

    def reset(self) -> None:
        """Forget everything. The room has to be idle."""
        self.log = self._make_log()
        self._forget()

    def record_gap(
        self, restart: Callable[[], object], at: float | None = None, *, ends_history: bool = True
    ) -> dict[str, str]:
        """Record that messages may be missing here, and return the gap. The caller broadcasts it, and then trims.

        ``restart`` is called for the gap's own id: other ids follow it, which may be lower than the last one.
        Everything appended must have been sealed. ``at`` is the time of the gap, if that isn't now.
        """
        log = self.log
        since = log.tail_id
        restart()
        gap = {"since": since, "after": log.label(log.next_message)}
        log.record_gap({"gap": gap}, trio.current_time() if at is None else at, ends_history=ends_history)
        if self._senders is not None:
            self._senders.add(log.last_message, NOBODY)
        if self._polls is not None:
            self._polls.record_gap(gap)
        return gap

    # For the loop

    @property
    def as_tuple(self) -> tuple[RoomBase[Member]]:
        """The room in a tuple, which all peers share that are in no other room."""
        if self._as_tuple is None:
            self._as_tuple = (self,)
        return self._as_tuple

    def admit(self, peer: Member, *, watches: bool = False) -> bool:
        """Make a peer a member that lacks nothing of the log; return whether watchers have to be notified.

        With ``watches`` the peer is notified of each other peer that joins or leaves from now on.
        """
        self._registry.add(self)
        if self.shared is not None:
            self.shared.follow(self)
        self.add_current(peer)
        # Before anything is sent: sending to the peer may end its membership, and with it the watching.
        has_news = self.watchers.note("join", peer, len(self))
        if watches:
            self.watchers.add(peer)
        return has_news

    @property
    def readers(self) -> Counter[str]:
        """The number of members and of polls in progress, by kind."""
        kinds = Counter(peer.encoding.label for peer in self.lagging)
        for encoding, peers in self.current.items():
            kinds[encoding.label] += len(peers)
        kinds["poll"] = 0 if self._polls is None else len(self._polls)
        return kinds

    @property
    def tail(self) -> Cursor:
        """The cursor of a peer that lacks nothing."""
        return self.policy.tail(self.log)

    def add_current(self, peer: Member) -> None:
        self.lagging.discard(peer)
        self.current.setdefault(peer.encoding, set()).add(peer)

    def add_lagging(self, peer: Member) -> None:
        self._discard_current(peer)
        self.lagging.add(peer)

    def remove(self, peer: Member) -> bool:
        """End a peer's membership, whatever the reason; return whether watchers have to be notified."""
        self._discard_current(peer)
        self.lagging.discard(peer)
        self.watchers.discard(peer)
        has_news = self.watchers.note("leave", peer, len(self))
        self.trim()
        if not len(self):
            self._forget()
        return has_news

    @property
    def held_bytes(self) -> int:
        """The memory that the room takes, while it has a member or keeps something."""
        polls = 0 if self._polls is None else self._polls.held_bytes(self.log.keeps)
        return ROOM_BYTES + len(self.path) + self.log.held_bytes + self.policy.held_bytes + self._repeats_bytes + polls

    @property
    def history_messages(self) -> int:
        """The number of messages for later readers."""
        return self.log.last_message + 1 - self.log.oldest(trio.current_time())

    @property
    def history_bytes(self) -> int:
        """The memory of the messages for later readers, and of the keys for publishers that retry."""
        return self.log.history_bytes + self._repeats_bytes

    @property
    def _repeats_bytes(self) -> int:
        return 0 if self._repeats is None else self._repeats.held_bytes

    @property
    def quiet_since(self) -> float:
        """The time of the last message, or of the last poll."""
        noted_at = self._repeats.newest_at if self._repeats else -math.inf
        return max(self.log.sealed_at, noted_at, self.kept_until - BETWEEN_POLLS_S)

    def end_history(self) -> None:
        """Forget the messages for later readers, which will get a gap, and the keys for publishers that retry."""
        self.log.end_history()
        self._repeats = None
        self.kept_until = -math.inf
        self.trim()

    def clear_history(self) -> int:
        """Forget the messages for later readers, which will get a gap, and return how many there were.

        Readers that are here, and lag, still get what they lack. The ids go on: the room is kept for a while, as it is
        after a poll. The keys for publishers that retry stay, since a message must not be published twice.
        """
        messages = self.history_messages
        self.log.end_history()
        self.kept_until = max(self.kept_until, trio.current_time() + BETWEEN_POLLS_S)
        self._registry.keep(self)
        self.trim()
        return messages

    def _forget(self) -> bool:
        """Leave the registry if nothing is left of the room."""
        if len(self) or self._polls or self._keeps_something:
            return False
        self._registry.discard(self)
        self._as_tuple = None
        self.policy.clear()  # a program may keep the room, but no reader can ask for older messages
        return True

    def expire(self) -> bool:
        """Drop everything that is too old; return True when nothing is left that can grow old."""
        self.trim()
        if self._repeats is not None:
            self._repeats.expire(trio.current_time())
        return not self._keeps_something if len(self) else self._forget()

    @property
    def _keeps_something(self) -> bool:
        """Whether something is kept for a client that isn't here."""
        return bool(self.log.kept_bytes or self._repeats) or trio.current_time() < self.kept_until

    def _discard_current(self, peer: Member) -> None:
        if peers := self.current.get(peer.encoding):
            peers.discard(peer)
            if not peers:
                del self.current[peer.encoding]

    def trim(self) -> None:
        """Forget the messages that nobody needs any more."""
        lowest = self.policy.first_needed(self.log, (peer.cursor(self) for peer in self.lagging))
        if self._polls:
            lowest = min(lowest, self._polls.lowest)
        self.log.trim(lowest, trio.current_time())
        if self._senders is not None:
            self._senders.trim(self.log.last_before(self.log.first) + 1)
