"""A room: the peers and the log of one URL path."""

from __future__ import annotations

import contextlib
import enum
import math
import sys
from collections.abc import Callable, Iterator, MutableMapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

import trio

from rawws.backplane import Backplane
from rawws.errors import UsageError
from rawws.lag_policies import LagPolicy, choose_policy
from rawws.limits import MAX_LAG_BYTES, MIB, check_number
from rawws.member import Member
from rawws.peer import Peer
from rawws.presence import Watchers
from rawws.runtime import check_in_trio, not_awaited
from rawws.wire.broadcast_log import BroadcastLog, Cursor, History
from rawws.wire.encodings import Encoding
from rawws.wire.events import Data, as_message
from rawws.wire.frames import Opcode, encode_message, split_frames
from rawws.wire.message_ids import Ids, StreamIds, parse_id
from rawws.wire.polled import Polled
from rawws.wire.reading import RoomQuery
from rawws.wire.repeats import Repeat, Repeats
from rawws.wire.sender_runs import SenderRuns
from rawws.wire.stream_entries import StreamId

if TYPE_CHECKING:
    from rawws.loop import Loop
    from rawws.websocket import WebSocket


# A room that is polled is kept for so long after each question.
BETWEEN_POLLS_S = 60.0

# Of one answer to who polls, as it is sent: more is there for the next question.
MAX_POLLED_MESSAGES = 1000
MAX_POLLED_BYTES = MIB

# The memory of a room, besides its path and its log's segments (measured).
ROOM_BYTES = 2600

NOBODY = 0  # the sender of what a program publishes


class Slow(enum.Enum):
    """The names of the policies in `rawws.lag_policies`: what happens to a peer that reads too slowly."""

    CLOSE = "close"  # it is closed with 1013
    SKIP = "skip"  # it goes on with the newest, and is told how many it missed if it can be
    LATEST = "latest"  # of what it missed it gets the newest of each key only, whenever it can take more
    WAIT = "wait"  # those who publish are held back until it has caught up: nobody misses anything


@dataclass(frozen=True, slots=True)
class RoomSettings:
    """What a room keeps, and how it treats its peers. Sizes are in bytes, times in seconds."""

    history: History = field(default_factory=History)
    max_lag_bytes: int = MAX_LAG_BYTES
    slow: Slow | str = Slow.CLOSE  # or the name of another policy in `rawws.lag_policies.POLICIES`
    key: str | None = None  # the JSON member that holds a message's key, for `Slow.LATEST`
    exclude_sender: bool = False  # a message goes to all others
    read_only: bool = False  # a peer that sends something is closed with 1008; others publish
    max_peers: float | None = None  # any number

    def __post_init__(self) -> None:
        """Raises `UsageError` for what doesn't go together."""
        self.policy.check(exclude_sender=self.exclude_sender)
        with contextlib.suppress(ValueError):
            object.__setattr__(self, "slow", Slow(self.slow))
        if not isinstance(self.history, History):
            raise UsageError(f"history can't be {self.history!r}; give a rawws.History, such as History(messages=100)")
        check_number("history", self.history.messages)
        check_number("history_bytes", self.history.max_bytes)
        check_number("history_age_s", self.history.max_age_s, whole=False)
        check_number("max_lag_bytes", self.max_lag_bytes, least=1)
        if self.max_peers is not None:
            check_number("max_peers", self.max_peers, least=1, whole=False)

    @property
    def policy(self) -> type[LagPolicy]:
        """The policy for slow peers."""
        return choose_policy(self.slow.value if isinstance(self.slow, Slow) else self.slow)


class Delivery(NamedTuple):
    """What became of a published message: for how many peers of the room it was which."""

    sent: int  # the operating system has taken it, and all before it
    queued: int  # sent soon, or replaced as `Slow` says: the peer reads slowly, or the message is large
    closed: int  # it was lost, or closed for being too far behind


def _refuse_await(_: Delivery) -> NoReturn:
    raise UsageError("room.publish(message) doesn't wait for anybody; leave out the await")


Delivery.__await__ = _refuse_await  # type: ignore[attr-defined]  # so that a type checker refuses it by itself


class RoomState:
    """The peers and the log of one URL path. A peer that is in the room is either current or behind.

    ``for member in room`` iterates over the members at this node, and ``len(room)`` is their number.

    Made by `rawws.Hub.room`. It costs nothing while nobody is in it and its history is over.
    """

    __slots__ = (
        "__weakref__",
        "_keep",
        "_loop",
        "_polled",
        "_pollers",
        "_registry",
        "_repeats",
        "_senders",
        "alone",
        "behind",
        "current",
        "holds",
        "kept_until",
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
        registry: MutableMapping[str, RoomState] | None = None,
        settings: RoomSettings | None = None,
        keep: Callable[[RoomState], None] = lambda _: None,
        shared: Backplane | None = None,
    ) -> None:
        """For `rawws.Hub`. ``keep`` is told when there is a history that somebody must end in time."""
        self.path = path
        self._keep = keep
        self.settings = settings or RoomSettings()
        self.policy = self.settings.policy(self.settings.key or "", self.settings.max_lag_bytes)
        self._senders: SenderRuns | None = SenderRuns() if self.settings.exclude_sender else None
        self.log = self._make_log()
        # Those that have been sent everything, by their encoding: their place is the log's tail.
        self.current: dict[Encoding, set[Peer]] = {}
        # Those that have a cursor of their own, and wait for their socket to take more.
        self.behind: set[Peer] = set()
        self.alone = (self,)  # for the many peers that are in this room only
        self._registry = {} if registry is None else registry
        self._loop: Loop | None = None  # which serves the peers, while there are any
        self._pollers: set[Poller] | None = None
        # What they have been told last, and from where on, while there are any.
        self._polled: tuple[tuple[int, dict[str, str] | None], Polled] | None = None
        self._repeats: Repeats | None = None  # of what was published with a key, if anything was
        self.watchers = Watchers()  # the members that are notified of each join and leave
        self.kept_until = -math.inf  # for those who poll, and are not here between two questions
        # Why those who publish are to wait just now. Who they are shows when they do it once more: that is kept, and no
        # more is read from them. Of the others come pings, pongs and closes, which can't wait.
        self.holds: set[str] = set()
        self.released = trio.lowlevel.ParkingLot()
        self.shared = shared  # where what is said here goes to, instead of into the log

    def _make_log(self) -> BroadcastLog:
        message_bytes = 0 if self._senders is None else self._senders.bytes_each
        return BroadcastLog(history=self.settings.history, message_bytes=message_bytes, in_use=self._encodings_in_use)

    def _encodings_in_use(self) -> Iterator[tuple[Cursor, Encoding]]:
        """Yield the cursor and the encoding of each lagging peer, for the log."""
        if not self.policy.reads_on:  # its peers have no place in a segment
            return
        for peer in self.behind:
            yield peer.cursor_in_use(self), peer.encoding

    def __repr__(self) -> str:
        return f"<Room {self.path} peers={len(self)} behind={len(self.behind)} {self.log!r}>"

    # For everybody

    def __len__(self) -> int:
        """The number of peers in the room."""
        return sum(map(len, self.current.values())) + len(self.behind)

    def __bool__(self) -> bool:
        return True  # a room that is empty is a room

    def __iter__(self) -> Iterator[Member]:
        """Iterate over the room's present members at this node, in the order in which they connected.

        Joins and leaves during the iteration have no effect on it.
        """
        loop = self._loop
        if loop is None:
            return iter(())
        return iter([Member(peer, loop) for peer in sorted(self.peers, key=lambda peer: peer.number)])

    def __contains__(self, who: object) -> bool:
        """Whether a `Member` or a `WebSocket` is in the room now."""
        peer = getattr(who, "_peer", None)
        return isinstance(peer, Peer) and self in peer.rooms

    @property
    def peers(self) -> list[Peer]:
        """The room's present members as peers, for rawws itself; a program iterates over the room."""
        return [*self.behind, *(peer for peers in self.current.values() for peer in peers)]

    @property
    def last_id(self) -> str:
        """The id of the message that was published last; of the beginning, if there was none."""
        return self.log.tail_id

    @property
    def is_held(self) -> bool:
        """Whether those who publish are to wait."""
        return bool(self.holds)

    def publish(self, message: Data, *, text: bool | None = None, key: str | None = None) -> Delivery:
        """Send a message to everybody in the room, and say what became of it; never waits for a peer.

        A ``str`` goes as text, anything bytes-like as binary, unless ``text`` says otherwise. It is encoded once,
        however many get it. ``key`` is for rooms whose slow peers get the newest of each key. Another thread calls it
        with ``trio.from_thread.run_sync``, and gives that a ``trio_token`` unless trio has started the thread. Raises
        `UsageError` when it is called in another thread itself.
        """
        return self.publish_many((message,), text=text, key=key)

    def publish_many(
        self, messages: tuple[Data, ...] | list[Data], *, text: bool | None = None, key: str | None = None
    ) -> Delivery:
        """Send several messages in one go, which takes one system call a peer instead of one for each.

        The ``key`` is that of each of them.

        In a room that is shared with other nodes they are on their way to all of these, and it can't be said yet what
        becomes of them.
        """
        check_in_trio("room.publish, message")
        frames: list[bytes | bytearray] = []
        for message in messages:
            encode_message(*as_message(message, text), frames)
        if not frames:
            return Delivery(0, 0, 0)
        if self.shared is not None:
            self.send_out(frames, NOBODY, key)
            return Delivery(0, 0, 0)
        self.add(frames, NOBODY, key)
        return self.spread()

    def spread(self) -> Delivery:
        """Send what was added to everybody in the room."""
        if self._loop is None:
            while self.seal():
                pass
            self.trim()
            return Delivery(0, 0, 0)
        sent, queued, closed = self._loop.sending.spread(self)
        return Delivery(sent, queued, closed)

    async def ready(self) -> None:
        """Wait as long as those who publish are held back: by a slow peer in a room that waits for such, or because
        too much is on its way to the other nodes."""
        while self.holds:
            await self.released.park()
        if self.shared is not None:
            await self.shared.ready()

    def join(self, websocket: WebSocket, *, since: str | None = None, last: int | None = None) -> Membership:
        """Put a connection into the room: from now on it gets what is published here, until it leaves or closes.

        With ``since``, an id, or ``last``, a number, it is first sent what the history has behind that, or the last
        so many messages. To leave at the end of a block, use what is returned: ``async with room.join(ws):``. A
        connection may be in any number of rooms. Raises `rawws.ConnectionClosed` when it is closed already.
        """
        check_in_trio("room.join, ws")
        reading = RoomQuery(None if since is None else parse_id(since), last)
        websocket.enter(self, self.place(reading).after)
        return Membership(self, websocket)

    def leave(self, websocket: WebSocket) -> None:
        """Take a connection out of the room. Harmless when it is not in it."""
        check_in_trio("room.leave, ws")
        websocket.exit(self)
        return not_awaited("room.leave(ws) has nothing to wait for")

    # For those who read

    def place(self, reading: RoomQuery) -> Place:
        """Return where a reader begins, and what it has missed by then."""
        log = self.log
        oldest = log.oldest(trio.current_time())
        if reading.since is not None:
            number = log.ids.number_of(reading.since)
            if number is None or number < oldest - 1:
                return Place(oldest - 1, {"since": str(reading.since), "after": log.label(oldest - 1)})
            if number > log.last_message:  # it has seen what we never had: others may have missed it, and we more
                return Place(log.last_message, {"since": str(reading.since), "after": log.tail_id})
            if not log.ids.knows(reading.since):  # the id is of a stream that was lost
                return Place(number, {"since": str(reading.since), "after": log.label(number)})
            return Place(number, None)
        if reading.last is not None:
            return Place(max(oldest - 1, log.last_message - reading.last), None)
        return Place(log.last_message, None)

    def polled(self, after: int, gap: dict[str, str] | None) -> Polled:
        """Return the answer to a poll after a number. It is made once for all polls that waited there."""
        if self._polled is not None and self._polled[0] == (after, gap):
            return self._polled[1]
        at = self.log.ids.label(after) if gap is None else gap["after"].encode("ascii")
        messages = self.log.messages(after, most=MAX_POLLED_MESSAGES, most_bytes=MAX_POLLED_BYTES)
        polled = Polled(messages, at, gap, MAX_POLLED_BYTES)
        if self._pollers:
            self._polled = (after, gap), polled
        return polled

    def poll(self, after: int) -> Poller:
        """Keep what is behind a number for one who waits for it; a context manager.

        The room itself is kept for a while, or else its ids would be of no use in the next question.
        """
        if self._pollers is None:
            self._pollers = set()
        self.kept_until = trio.current_time() + BETWEEN_POLLS_S
        self._registry[self.path] = self
        self._keep(self)
        return Poller(self, self._pollers, self.log.number_of(after + 1))

    def end_polling(self) -> None:
        """Nobody waits here any more."""
        self._polled = None

    @property
    def tells_senders_apart(self) -> bool:
        """Whether a peer is not sent what it has said itself."""
        return self._senders is not None

    def segment_for(self, peer: Any, number: int) -> bytes:
        """Return a segment in a peer's encoding, and without its own messages if the room has it so."""
        return self.leave_out_own(peer, number, self.log.segment(number, peer.encoding))

    def leave_out_own(self, peer: Any, number: int, segment: bytes) -> bytes:
        """Return a segment, in an encoding that has frames. With `exclude_sender` it lacks the peer's own messages."""
        if self._senders is None:
            return segment
        return self._senders.leave_out(peer.number, segment, *self.log.span(number))

    def count_for(self, peer: Any, first: int, last: int) -> int:
        """Return how many of these messages a peer is sent."""
        own = 0 if self._senders is None else self._senders.count(peer.number, first, last)
        return last - first + 1 - own

    # For those who write

    def send_out(self, frames: Sequence[bytes | bytearray], sender: int, key: str | None = None) -> int:
        """Give encoded messages to the backplane, from where they come back to be added; returns how many."""
        assert self.shared is not None
        messages = list(split_frames(b"".join(frames)))
        for header, payload in messages:
            self.shared.send_out(
                self.path, Opcode(header.opcode), bytes(payload), self.settings.history, sender=sender, key=key
            )
        return len(messages)

    def add(self, frames: Sequence[bytes | bytearray], sender: int, key: str | None = None) -> int:
        """Append encoded messages of one sender, to be sealed and sent soon; returns how many."""
        first = self.log.next_message
        self.log.append(frames)
        if key is not None:
            self.policy.note_key(range(first, self.log.next_message), key)
        if self._senders is not None:
            self._senders.add(self.log.next_message - 1, sender)
        return self.log.next_message - first

    def seal(self) -> bool:
        """Make what was appended a segment, or the first of it; false if nothing is left."""
        log = self.log
        first = log.last_message + 1
        plain = log.seal(trio.current_time())
        if plain is None:
            return False
        self.policy.note_sealed(first, plain)
        self._polled = None
        if self._pollers:
            for poller in self._pollers:
                poller.wake()
        if self.settings.history.messages:
            self._registry[self.path] = self
            self._keep(self)
        return True

    def repeat_of(self, key: str) -> Repeat | None:
        """Return what was published before with an Idempotency-Key, if that is still known."""
        return None if self._repeats is None else self._repeats.find(key, trio.current_time())

    def note_key(self, key: str, digest: str) -> None:
        """Know what was published last by its Idempotency-Key for a while, in which the room is kept."""
        if self._repeats is None:
            self._repeats = Repeats()
        self._repeats.note(key, self.log.last_message, digest, trio.current_time())
        self._registry[self.path] = self
        self._keep(self)

    # For the backplane

    def share_through(self, backplane: Backplane) -> None:
        """Have what is said here go there. Nobody may be here."""
        self.begin_anew()
        self.shared = backplane

    @property
    def is_deserted(self) -> bool:
        """Whether nobody reads here, or will want to read on in a moment."""
        return self._loop is None and not self._pollers and trio.current_time() >= self.kept_until

    def begin_with(self, ids: Ids) -> None:
        """Have the messages that are to come called by other ids. There may be none yet."""
        assert not self.log.next_message - 1, "there are messages with other ids"
        self.log.ids = ids

    def begin_anew(self) -> None:
        """Forget everything. Nobody may be here."""
        self.log = self._make_log()
        self._forget()

    def leave_out(self, after: StreamId) -> None:
        """Record that messages may be missing here, and send a gap in its place to readers whose encoding has controls.

        A new sequence of ids begins after ``after``, which may be lower than the last id. Everything appended must
        have been sealed.
        """
        log = self.log
        assert isinstance(log.ids, StreamIds)
        since = log.tail_id
        log.ids.restart(after)
        gap = {"since": since, "after": log.label(log.next_message)}
        log.leave_out({"gap": gap}, trio.current_time())
        if self._senders is not None:
            self._senders.add(log.last_message, NOBODY)
        for poller in self._pollers or ():
            poller.gap = gap
        if self._loop is not None:
            self._loop.sending.spread_gap(self, gap)
        self.trim()

    # For the loop

    def admit(self, peer: Peer, loop: Loop, *, watches: bool = False) -> None:
        """Make a peer a member, which lacks nothing of the log; `Loop.join` is the only caller.

        With ``watches`` it is notified of each other peer that joins or leaves from now on.
        """
        self._loop = loop
        self._registry[self.path] = self
        if self.shared is not None:
            self.shared.follow(self)
        self.add_current(peer)
        # First of all, since sending to the peer may end its membership, and with it the watching.
        self._note("join", peer)
        if watches:
            self.watchers.add(peer)

    @property
    def tail(self) -> Cursor:
        """Where a peer stands that lacks nothing."""
        return self.policy.tail(self.log)

    def add_current(self, peer: Any) -> None:
        self.behind.discard(peer)
        self.current.setdefault(peer.encoding, set()).add(peer)

    def add_behind(self, peer: Any) -> None:
        self._discard_current(peer)
        self.behind.add(peer)

    def remove(self, peer: Peer) -> None:
        """End a peer's membership, whatever the reason."""
        self._discard_current(peer)
        self.behind.discard(peer)
        self.watchers.discard(peer)
        self._note("leave", peer)
        self.trim()
        if not len(self):
            self._loop = None
            self._forget()

    def _note(self, what: str, peer: Peer) -> None:
        if self.watchers.note(what, peer, len(self)):
            assert self._loop is not None
            self._loop.presence.tell_soon(self)

    @property
    def held_bytes(self) -> int:
        """What the room takes in memory, while somebody is in it or it keeps something."""
        held = ROOM_BYTES + len(self.path) + self.log.held_bytes + self.policy.held_bytes + self._repeats_bytes
        if self._polled is not None:
            held += sum(map(sys.getsizeof, self._polled[1].objects(self.log.keeps)))
        return held

    @property
    def history_bytes(self) -> int:
        """What is kept for those who come later, and for who publishes once more."""
        return self.log.history_bytes + self._repeats_bytes

    @property
    def _repeats_bytes(self) -> int:
        return 0 if self._repeats is None else self._repeats.held_bytes

    @property
    def quiet_since(self) -> float:
        """When something was published last, or it was polled."""
        noted_at = self._repeats.newest_at if self._repeats else -math.inf
        return max(self.log.sealed_at, noted_at, self.kept_until - BETWEEN_POLLS_S)

    def end_history(self) -> None:
        """Forget what is kept for those who come later, who will be told of a gap, and for who publishes once more."""
        self.log.end_history()
        self._repeats = None
        self.kept_until = -math.inf
        self.trim()

    def _forget(self) -> bool:
        """Leave the registry if nothing is left of the room."""
        if self._loop is not None or self._pollers or self._keeps_something:
            return False
        if self._registry.get(self.path) is self:
            del self._registry[self.path]
        self.policy.clear()  # a program may keep the room, but no reader can ask for older messages
        return True

    def expire(self) -> bool:
        """Drop what is too old; true when there is nothing more that has to end in time."""
        self.trim()
        if self._repeats is not None:
            self._repeats.expire(trio.current_time())
        return self._forget() if self._loop is None else not self._keeps_something

    @property
    def _keeps_something(self) -> bool:
        """Whether there is something that somebody may come for who isn't here."""
        return bool(self.log.kept_bytes or self._repeats) or trio.current_time() < self.kept_until

    def _discard_current(self, peer: Peer) -> None:
        if peers := self.current.get(peer.encoding):
            peers.discard(peer)
            if not peers:
                del self.current[peer.encoding]

    def trim(self) -> None:
        """Forget what nobody needs any more."""
        lowest = self.policy.first_needed(self.log, (peer.lag(self).cursor for peer in self.behind))
        for poller in self._pollers or ():
            lowest = min(lowest, poller.number)
        self.log.trim(lowest, trio.current_time())
        if self._senders is not None:
            self._senders.trim(self.log.last_before(self.log.first) + 1)


class Place(NamedTuple):
    """Where a reader begins: behind the message ``after``. ``gap`` says what is missing before that, if it is."""

    after: int
    gap: dict[str, str] | None


class Poller:
    """One who waits for messages without being in the room; what it is to get is kept meanwhile."""

    def __init__(self, room: RoomState, pollers: set[Poller], number: int) -> None:
        self.number = number
        self.gap: dict[str, str] | None = None  # what turned out to be missing meanwhile
        self._room = room
        self._pollers = pollers
        self._event = trio.Event()

    def __enter__(self) -> Poller:
        self._pollers.add(self)
        return self

    def __exit__(self, *_: object) -> None:
        self._pollers.discard(self)
        if not self._pollers:
            self._room.end_polling()
        self._room.trim()

    def wake(self) -> None:
        self._event.set()

    async def wait(self) -> None:
        """Wait until something is published."""
        await self._event.wait()


class Membership:
    """A connection's being in a room; as a context manager, sync or async, it ends with the block."""

    if not TYPE_CHECKING:  # a type checker refuses it by itself

        def __await__(self):
            raise UsageError("room.join(ws) doesn't wait; use async with room.join(ws), or leave out the await")

    def __init__(self, room: RoomState, websocket: WebSocket) -> None:
        self.room = room
        self._websocket = websocket

    def __enter__(self) -> RoomState:
        return self.room

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.room.leave(self._websocket)

    async def __aenter__(self) -> RoomState:
        return self.room

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.room.leave(self._websocket)
