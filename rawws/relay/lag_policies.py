"""Lag policies: the ways in which a room treats the peers that read more slowly than it publishes.

A peer whose socket takes only part of a segment *lags* from then on, and has a cursor of its own in the room's log.
A policy says where that cursor goes, what the peer is sent next, and what happens when it lags too far. It decides
only: the loop sends, closes and blocks.

There are two families. With `ReadsOn` a lagging peer goes on in the log, segment by segment, and ``on_lag`` decides
what happens when it is too far from the log's end. With `Selects` the policy keeps a bounded selection of the messages
itself, and a lagging peer gets from that what it has missed, in place of the log.

A new policy is a subclass of one of them, and a row in `POLICIES`: from there, `rawws.Hub`, `rawws.RoomSettings` and
``--slow`` know it by its name. Each room has an instance of its own.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

from rawws.broadcast import latest_by_key
from rawws.broadcast.encodings import Encoding
from rawws.broadcast.log import BroadcastLog, Cursor, ReplayStart
from rawws.errors import UsageError
from rawws.limits import MIB

# The bounds of one `Chunk`. The peer gets the next one when it has taken this one, selected anew.
CHUNK_MESSAGES = 1000
CHUNK_BYTES = MIB


class PartialSend(NamedTuple):
    """A segment, in a peer's encoding, of which the peer's socket took the first ``sent`` bytes only.

    ``committed_bytes`` after those can't be taken back either, since TLS has encrypted them.
    """

    log: BroadcastLog
    number: int
    segment: bytes
    sent: int
    encoding: Encoding
    committed_bytes: int


class Resumption(NamedTuple):
    """Where a peer goes on: first with ``rest``, from its outbox, then at ``cursor``.

    With ``in_segment`` the peer has had part of the segment at the cursor, whose rest has to come next.
    """

    cursor: Cursor
    rest: bytes = b""
    in_segment: bool = False


class Lag(NamedTuple):
    """The place of a peer that lags in a room: its cursor in the room's log, and its encoding."""

    log: BroadcastLog
    cursor: Cursor
    encoding: Encoding


class Chunk(NamedTuple):
    """The next data for a lagging peer: ``messages`` of those up to ``upto``, encoded. It never gets the others."""

    data: bytes
    messages: int
    upto: int


@dataclass(frozen=True, slots=True)
class Keep:
    """Let the peer lag."""


@dataclass(frozen=True, slots=True)
class Close:
    """Close the peer with 1013."""


@dataclass(frozen=True, slots=True)
class JumpTo:
    """Skip the segments before ``number``, and tell the peer how many messages these had, if its encoding can."""

    number: int


@dataclass(frozen=True, slots=True)
class Block:
    """Read nothing from the room's publishers until all its peers have caught up with half of the limit."""


Action = Keep | Close | JumpTo | Block


class LagPolicy(ABC):
    """The way in which one room treats its lagging peers. It decides, and does nothing itself."""

    __slots__ = ("max_lag_bytes",)

    name: ClassVar[str]  # for `rawws.Hub` and ``--slow``
    summary: ClassVar[str]  # completes "a peer that reads too slowly …", for ``--help``
    # Whether a lagging peer's cursor is a place in the log, and the peer gets whole segments.
    reads_on: ClassVar[bool]
    uses_keys: ClassVar[bool] = False  # whether messages have keys
    blocks_publishers: ClassVar[bool] = False  # whether it ever returns `Block`

    def __init__(self, key: str, max_lag_bytes: int) -> None:
        """Take the room's settings: the JSON member with a message's key, and how many bytes a lag may take."""
        self.max_lag_bytes = max_lag_bytes

    @classmethod
    @abstractmethod
    def check(cls, *, exclude_sender: bool) -> None:
        """Raise `UsageError` for a room's settings that the policy can't go together with."""

    # Messages of the room

    @abstractmethod
    def note_key(self, numbers: range, key: str) -> None:
        """Note the key of messages that are about to be published, if the policy uses keys."""

    @abstractmethod
    def note_sealed(self, first: int, frames: bytes) -> None:
        """Note what was published: plain frames, the first of which is the message with that number."""

    @abstractmethod
    def clear(self) -> None:
        """Forget the room's messages: no reader can ask for them any more."""

    @property
    @abstractmethod
    def held_bytes(self) -> int:
        """The memory of what the policy keeps, in bytes."""

    # Where a peer is

    @abstractmethod
    def tail(self, log: BroadcastLog) -> Cursor:
        """Return the place of a peer that lacks nothing."""

    @abstractmethod
    def start(self, after: int, entry: ReplayStart) -> Resumption:
        """Return where a peer begins that joins after a message; ``entry`` is the log's place for it."""

    @abstractmethod
    def first_needed(self, log: BroadcastLog, cursors: Iterable[Cursor]) -> int:
        """Return the first segment that the peers with these cursors need. The log forgets those before it."""

    @abstractmethod
    def lag_bytes(self, lag: Lag) -> int:
        """Return how many bytes of plain frames the log has that the peer lacks; 0 if it won't get them from there."""

    @abstractmethod
    def lag_cost(self, lag: Lag) -> int:
        """Return how much memory the log needs because of the peer, in bytes. `on_lag` follows when it is too much."""

    # Decisions about a peer

    @abstractmethod
    def on_partial_send(self, at: PartialSend) -> Resumption:
        """Return where a peer goes on whose socket took only part of a segment."""

    @abstractmethod
    def on_lag(self, lag: Lag) -> Action:
        """Return what to do about a peer over the limit. Called after each broadcast, as long as it is."""

    @abstractmethod
    def next_chunk(self, lag: Lag) -> Chunk | None:
        """Return what a lagging peer is sent next, or None if that is the log's segment at its cursor."""


class ReadsOn(LagPolicy):
    """A lagging peer goes on in the log. Its cursor is a segment's number, and the bytes of it that it has had."""

    __slots__ = ()

    reads_on = True

    @classmethod
    def check(cls, *, exclude_sender: bool) -> None:
        pass

    def note_key(self, numbers: range, key: str) -> None:
        pass

    def note_sealed(self, first: int, frames: bytes) -> None:
        pass

    def clear(self) -> None:
        pass

    @property
    def held_bytes(self) -> int:
        return 0

    def tail(self, log: BroadcastLog) -> Cursor:
        return Cursor(log.next)

    def start(self, after: int, entry: ReplayStart) -> Resumption:
        return Resumption(Cursor(entry.number), entry.rest)

    def first_needed(self, log: BroadcastLog, cursors: Iterable[Cursor]) -> int:
        lowest, first = log.next, log.first
        for number, _ in cursors:
            if number < lowest:
                lowest = number
            if lowest == first:
                break  # as mostly one of them is, where many lag
        return lowest

    def lag_bytes(self, lag: Lag) -> int:
        return lag.log.lag_bytes(lag.cursor, lag.encoding)

    def lag_cost(self, lag: Lag) -> int:
        return lag.log.lag_cost(lag.cursor, lag.encoding)

    def on_partial_send(self, at: PartialSend) -> Resumption:
        return Resumption(Cursor(at.number, at.sent), in_segment=at.sent + at.committed_bytes > 0)

    def next_chunk(self, lag: Lag) -> Chunk | None:
        return None


class Selects(LagPolicy):
    """A lagging peer gets what the policy selects of that which it missed. Its cursor is the number of a message.

    The log keeps nothing for such a peer, so it can't lag too far. A selection must be bounded, for the same reason.
    """

    __slots__ = ()

    reads_on = False

    @classmethod
    def check(cls, *, exclude_sender: bool) -> None:
        if exclude_sender:
            message = f"a message that {cls.name!r} selects may be a peer's own"
            raise UsageError(f"{message}: give {cls.name!r} or exclude_sender, not both")

    def note_key(self, numbers: range, key: str) -> None:
        pass

    @abstractmethod
    def select(self, after: int) -> Sequence[tuple[int, bytes]]:
        """Return the selected messages after a number, in their order: the number and the plain frame of each."""

    def tail(self, log: BroadcastLog) -> Cursor:
        return Cursor(log.last_message)

    def start(self, after: int, entry: ReplayStart) -> Resumption:
        return Resumption(Cursor(after))

    def first_needed(self, log: BroadcastLog, cursors: Iterable[Cursor]) -> int:
        return log.next

    def lag_bytes(self, lag: Lag) -> int:
        return 0

    def lag_cost(self, lag: Lag) -> int:
        return 0

    def on_partial_send(self, at: PartialSend) -> Resumption:
        # The message of which the peer has a part may be the last that it gets of this segment.
        rest = at.encoding.rest_of_message(at.segment, at.sent, committed_bytes=at.committed_bytes)
        had = at.encoding.count_messages(at.segment, at.sent + len(rest))
        return Resumption(Cursor(at.log.last_before(at.number) + had), rest)

    def on_lag(self, lag: Lag) -> Action:
        return Keep()

    def next_chunk(self, lag: Lag) -> Chunk:
        # Not compressed: that would have to be done for each peer.
        log, (after, _) = lag.log, lag.cursor
        encoding = lag.encoding.uncompressed
        pieces: list[bytes] = []
        size, upto = 0, log.last_message
        for number, frame in self.select(after):
            if size >= CHUNK_BYTES or len(pieces) >= CHUNK_MESSAGES:
                upto = number - 1
                break
            pieces.append(encoding.encode(frame, log.ids.labels(number)))
            size += len(frame)
        return Chunk(b"".join(pieces), len(pieces), upto)


class Disconnect(ReadsOn):
    """A peer that lags too far is closed."""

    __slots__ = ()

    name = "close"
    summary = "is disconnected"

    def on_lag(self, lag: Lag) -> Action:
        return Close()


class SkipToNewest(ReadsOn):
    """A peer that lags too far goes on with the newest segment."""

    __slots__ = ()

    name = "skip"
    summary = "skips to the newest message"

    def on_lag(self, lag: Lag) -> Action:
        newest = lag.log.next - 1
        return JumpTo(newest) if lag.cursor.number < newest else Keep()  # else the newest is all that it lacks


class LatestByKey(Selects):
    """A lagging peer gets the newest message of each key, whenever it can take more."""

    __slots__ = ("_newest",)

    name = "latest"
    summary = "gets the latest message of each key"
    uses_keys = True

    def __init__(self, key: str, max_lag_bytes: int) -> None:
        super().__init__(key, max_lag_bytes)
        self._newest = latest_by_key.LatestByKey(key, max_lag_bytes)

    def note_key(self, numbers: range, key: str) -> None:
        for number in numbers:
            self._newest.give(number, f":{key}")

    def note_sealed(self, first: int, frames: bytes) -> None:
        self._newest.add(first, frames)

    def clear(self) -> None:
        self._newest.clear()

    @property
    def held_bytes(self) -> int:
        return self._newest.held_bytes

    def select(self, after: int) -> Sequence[tuple[int, bytes]]:
        return self._newest.after(after)


class BlockPublishers(ReadsOn):
    """When a peer lags too far, nothing is read from those who publish until it has caught up. Nothing is skipped."""

    __slots__ = ()

    name = "wait"
    summary = "makes publishers wait"
    blocks_publishers = True

    def on_lag(self, lag: Lag) -> Action:
        return Block()


POLICIES: dict[str, type[LagPolicy]] = {
    policy.name: policy for policy in (Disconnect, SkipToNewest, LatestByKey, BlockPublishers)
}


def choose_policy(name: str) -> type[LagPolicy]:
    """Return the policy of that name. Raises `UsageError` if there is none."""
    try:
        return POLICIES[name]
    except (KeyError, TypeError):
        names = ", ".join(map(repr, POLICIES))
        raise UsageError(f"there is no policy for slow peers {name!r}; give one of {names}") from None
