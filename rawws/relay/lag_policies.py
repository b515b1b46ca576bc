"""Lag policies: how a room treats the peers that read more slowly than it publishes.

A peer whose socket takes only part of a segment *lags* from then on, and has a cursor of its own in the room's log.
A policy says where that cursor goes, what the peer is sent next, and what happens when it lags too far. It only
decides: the loop sends, closes and blocks.

There are two families. With `ReadsOn` a lagging peer goes on in the log, segment by segment, and ``on_lag`` decides
what happens when it is too far from the log's end. With `Selects` the policy itself keeps a bounded selection of the
messages, and a lagging peer gets the ones that it missed from there, instead of from the log.

A new policy is a subclass of one of them, and a row in `POLICIES`. `rawws.Hub`, `rawws.RoomSettings` and ``--slow``
then know it by its name. Each room has an instance of its own.
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

# The bounds of one `Chunk`. When the peer has taken it, the next one is selected.
CHUNK_MESSAGES = 1000
CHUNK_BYTES = MIB


class PartialSend(NamedTuple):
    """A segment, in a peer's encoding, of which the peer's socket took only the first ``sent`` bytes.

    The next ``committed_bytes`` can't be taken back either, since TLS has encrypted them.
    """

    log: BroadcastLog
    number: int
    segment: bytes
    sent: int
    encoding: Encoding
    committed_bytes: int


class Resumption(NamedTuple):
    """Where a peer goes on: first with ``rest``, from its outbox, then at ``cursor``.

    With ``in_segment`` the peer has got a part of the segment at the cursor, and needs the rest of it next.
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
    """The next data for a lagging peer: this many ``messages``. It never gets the others up to number ``upto``."""

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
    """Skip the segments before ``number``. Notify the peer of the number of messages in them, if its encoding can."""

    number: int


@dataclass(frozen=True, slots=True)
class Block:
    """Read nothing from the room's publishers until no peer's lag is over half of the limit."""


Action = Keep | Close | JumpTo | Block


class LagPolicy(ABC):
    """One room's treatment of its lagging peers. A policy decides, and does nothing itself."""

    __slots__ = ("max_lag_bytes",)

    name: ClassVar[str]  # for `rawws.Hub` and ``--slow``
    summary: ClassVar[str]  # completes "a peer that reads too slowly …", for ``--help``
    # Whether a lagging peer's cursor is a place in the log, and the peer gets whole segments.
    reads_on: ClassVar[bool]
    uses_keys: ClassVar[bool] = False  # whether messages have keys
    blocks_publishers: ClassVar[bool] = False  # whether it ever returns `Block`

    def __init__(self, key: str, max_lag_bytes: int) -> None:
        """``key`` is the JSON member with a message's key; a lag may take ``max_lag_bytes`` of memory."""
        self.max_lag_bytes = max_lag_bytes

    @classmethod
    @abstractmethod
    def check(cls, *, exclude_sender: bool) -> None:
        """Raise `UsageError` for settings of a room that don't go together with the policy."""

    # Messages of the room

    @abstractmethod
    def note_key(self, numbers: range, key: str) -> None:
        """Note the key of messages that are about to be published, if the policy uses keys."""

    @abstractmethod
    def note_sealed(self, first: int, frames: bytes) -> None:
        """Note published messages: plain frames, of which the first is the message number ``first``."""

    @abstractmethod
    def clear(self) -> None:
        """Forget the room's messages, since no reader can ask for them any more."""

    @property
    @abstractmethod
    def held_bytes(self) -> int:
        """The memory that the policy takes, in bytes."""

    # Where a peer is

    @abstractmethod
    def tail(self, log: BroadcastLog) -> Cursor:
        """Return the cursor of a peer that lacks nothing."""

    @abstractmethod
    def start(self, after: int, entry: ReplayStart) -> Resumption:
        """Return where a peer starts that joins after a message; ``entry`` is its place in the log."""

    @abstractmethod
    def first_needed(self, log: BroadcastLog, cursors: Iterable[Cursor]) -> int:
        """Return the first segment that the peers with these cursors need. The log forgets those before it."""

    @abstractmethod
    def lag_bytes(self, lag: Lag) -> int:
        """Return the bytes of plain frames in the log that the peer lacks; 0 if it won't get them from there."""

    @abstractmethod
    def lag_cost(self, lag: Lag) -> int:
        """Return the bytes of memory that the log needs because of the peer; `on_lag` is called for too many."""

    # Decisions about a peer

    @abstractmethod
    def on_partial_send(self, at: PartialSend) -> Resumption:
        """Return where a peer goes on after its socket took only part of a segment."""

    @abstractmethod
    def on_lag(self, lag: Lag) -> Action:
        """Return the action for a peer that is over the limit. This is called after each broadcast while it is."""

    @abstractmethod
    def next_chunk(self, lag: Lag) -> Chunk | None:
        """Return the next data for a lagging peer, or None if that is the log's segment at its cursor."""


class ReadsOn(LagPolicy):
    """A lagging peer goes on in the log. Its cursor is a segment's number and an offset in the segment."""

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
                break  # if many peers lag, one of them is usually at the first segment
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
    """A lagging peer gets a selection of the messages that it missed. Its cursor is the number of a message.

    The log keeps nothing for such a peer, so the peer can't lag too far. But the selection must be bounded.
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
        """Return the selected messages after a number, in order: the number and the plain frame of each."""

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
        # The peer has got a part of a message. It may get no later message of this segment.
        rest = at.encoding.rest_of_message(at.segment, at.sent, committed_bytes=at.committed_bytes)
        had = at.encoding.count_messages(at.segment, at.sent + len(rest))
        return Resumption(Cursor(at.log.last_before(at.number) + had), rest)

    def on_lag(self, lag: Lag) -> Action:
        return Keep()

    def next_chunk(self, lag: Lag) -> Chunk:
        # Uncompressed, since each peer's chunk would have to be compressed on its own.
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
        return JumpTo(newest) if lag.cursor.number < newest else Keep()  # otherwise it lacks only the newest


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
    """When a peer lags too far, publishers are not read from until it has caught up. Nothing is skipped."""

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
