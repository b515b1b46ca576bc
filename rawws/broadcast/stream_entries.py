"""A room as a Redis Stream: messages as entries of it, and how a reader learns that it may have missed some.

The stream of a room has the key ``rawws:`` and the room's path. Its entries' ids are the messages' ids. An entry has
these fields; a program that isn't rawws need only give the first:

========  ========================================================================================
``data``  the payload
``op``    ``t`` for text, ``b`` for binary; without it, a payload in UTF-8 is text
``by``    ``node.connection.number``: its publisher (`Author`), and a number that grows with each of that node
``key``   the message's key, for rooms whose slow peers get the newest message of each key
========  ========================================================================================

Streams are trimmed, expire, and may be lost with the server that had them. A reader that has been away finds out by
comparing where it stands (`StreamPlace`) with what the stream has now (`StreamState`). A reader that stays does the
same from time to time: a stream that was deleted may start again with lower ids, and a blocking read that waits for
higher ids never returns them. A new reader begins with the end of the stream, which is the room's history
(`StreamTail`).
"""

from __future__ import annotations

import enum
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from rawws.broadcast.idempotency import IdempotencyKey
from rawws.broadcast.log import History
from rawws.limits import MIB
from rawws.wire.frames import MAX_HEADER_BYTES, Opcode

PREFIX = "rawws:"

StreamId = tuple[int, int]  # milliseconds since 1970 by Redis's clock, and a count within these
BEGINNING: StreamId = (0, 0)
MAX_HALF = (1 << 64) - 1
HIGHEST: StreamId = (MAX_HALF, MAX_HALF)  # nothing can be added to a stream that has an entry with this id
MAX_SEQUENCE = 10**18  # more entries than can be added within a millisecond

# Streams are trimmed to about as many entries as a room's history has, but no fewer than this: a node that lags by
# fewer entries misses nothing.
LEAST_ENTRIES = 10_000
# If these entries take more bytes than this and than the history may, fewer are kept.
LEAST_BYTES = 48 * MIB
# A stream to which nothing is added expires after the history's age, but no sooner than this.
LEAST_EXPIRY_S = 600
# Redis refuses larger numbers; these are large enough for any room.
MOST_KEPT = 10**18
MOST_EXPIRY_S = 100 * 365 * 86_400
# The number of nodes whose repetitions are recognized in one stream.
MOST_NODES = 1000
NODE_BYTES = 130  # the memory of a node's serial (measured)
MESSAGE_BYTES = 300  # the memory of a message besides its payload, while a history is loaded (measured)

_BY = re.compile(rb"([0-9A-Za-z_-]{1,64})\.([0-9]{1,18})\.([0-9]{1,18})")
_ID = re.compile(rb"([0-9]{1,20})-([0-9]{1,20})")


def key_of(path: str) -> str:
    """Return the key of a room's stream."""
    return PREFIX + path


def once_key_of(path: str, key: IdempotencyKey) -> str:
    """Return the key of what is known about an Idempotency-Key in a room. No digest begins with a slash, as a path."""
    return f"{PREFIX}once:{key.owner_digest}{path} {key.text}"


def path_of(key: str) -> str:
    """Return the path of the room whose stream has that key."""
    return key.removeprefix(PREFIX)


def parse_stream_id(text: bytes) -> StreamId:
    """Read an id. Raises ValueError for bytes that are not an id of Redis."""
    found = _ID.fullmatch(text)
    given = (int(found[1]), int(found[2])) if found else HIGHEST
    if found is None or max(given) > MAX_HALF:
        raise ValueError(f"{text[:60]!r} is not the id of an entry")
    return given


def format_stream_id(given: StreamId) -> str:
    return f"{given[0]}-{given[1]}"


def just_before(given: StreamId) -> StreamId:
    """Return an id just before another one: after every id that precedes it in a stream."""
    milliseconds, sequence = given
    return (milliseconds, sequence - 1) if sequence else (max(0, milliseconds - 1), MAX_SEQUENCE)


class Author(NamedTuple):
    """The publisher of an entry. A room uses it to leave out the connection that sent the message."""

    node: str
    connection: int
    serial: int  # grows with each message of the node; a message that is sent again has the same one

    @classmethod
    def parse(cls, by: bytes) -> Author | None:
        """Return the parts of ``by``; None if no node of rawws can have written it."""
        match = _BY.fullmatch(by)
        return match and cls(match[1].decode("ascii"), int(match[2]), int(match[3]))

    def __str__(self) -> str:
        return f"{self.node}.{self.connection}.{self.serial}"


class StreamMessage(NamedTuple):
    """An entry, as a message."""

    id: StreamId
    opcode: Opcode
    payload: bytes
    by: Author | None
    key: str | None
    is_understood: bool = True  # otherwise it is skipped


class DuplicateFilter:
    """Recognizes entries that repeat earlier ones, which were lost together with their Redis.

    The node that published them had got no answer, and so published them again. A reader that has got the earlier entry
    must not get the second, and a reader that has not must get it.
    """

    def __init__(self) -> None:
        self._last: dict[str, int] = {}  # serial of each node

    @property
    def held_bytes(self) -> int:
        """The bytes of memory that it takes."""
        return NODE_BYTES * len(self._last)

    def has(self, author: Author | None) -> bool:
        """Say whether the next entry is such a repetition."""
        if author is None:
            return False
        last = self._last.pop(author.node, -1)
        self._last[author.node] = max(last, author.serial)
        if len(self._last) > MOST_NODES:
            del self._last[next(iter(self._last))]  # the node that has been silent for longest
        return author.serial <= last

    def knows(self, author: Author) -> bool:
        """Say whether this entry, or a later one by the same node, has been read."""
        return author.serial <= self._last.get(author.node, -1)


class Retention(NamedTuple):
    """How much of a stream Redis keeps: about this many entries and bytes, for this time after the last entry."""

    entries: int
    bytes: int
    expiry_s: int

    @classmethod
    def of(cls, history: History) -> Retention:
        """Return the retention for a room's history. It is never less than a node needs that lags a little."""
        return cls(
            int(min(max(LEAST_ENTRIES, history.messages), MOST_KEPT)),
            int(min(max(LEAST_BYTES, history.max_bytes), MOST_KEPT)),
            int(min(max(LEAST_EXPIRY_S, history.max_age_s), MOST_EXPIRY_S)),
        )


def fields_of(opcode: Opcode, payload: bytes, author: Author, key: str | None) -> list[str | bytes]:
    """Return the fields of a message's entry: names and values in turn.

    Raises UnicodeEncodeError for a key that UTF-8 can't encode.
    """
    fields: list[str | bytes] = ["data", payload, "op", "t" if opcode is Opcode.TEXT else "b", "by", str(author)]
    return fields if key is None else [*fields, "key", key.encode()]


def read_entry(identifier: bytes, fields: Mapping[bytes, bytes]) -> StreamMessage:
    """Read an entry by any writer. Without ``data`` it is an empty message."""
    payload = fields.get(b"data", b"")
    key = fields.get(b"key")
    return StreamMessage(
        parse_stream_id(identifier),
        _opcode_of(fields.get(b"op"), payload),
        payload,
        Author.parse(fields.get(b"by", b"")),
        None if key is None else key.decode(errors="replace"),
    )


def _opcode_of(op: bytes | None, payload: bytes) -> Opcode:
    """Return the opcode of a payload. Invalid text is sent as bytes, or every peer would close (§8.1)."""
    if op == b"b":
        return Opcode.BINARY
    try:
        payload.decode()
    except UnicodeDecodeError:
        return Opcode.BINARY
    return Opcode.TEXT


class StreamState(NamedTuple):
    """The state of a stream in Redis (``XINFO STREAM``); all values are zero for a stream that does not exist."""

    length: int = 0
    added: int = 0  # number of entries ever added, including those that were trimmed or deleted
    oldest: StreamId = BEGINNING
    newest: StreamId = BEGINNING  # the last id that was assigned, whether or not its entry still exists
    deleted: StreamId = BEGINNING  # the highest id of an entry that was deleted (XDEL)
    has_landmark: bool = False  # whether the stream has one of the reader's `StreamPlace.landmarks`
    expires_ms: int = 0  # its time of expiry, if nothing renews it; 0 or less for none

    @property
    def removed(self) -> int:
        """The number of entries that were trimmed or deleted."""
        return self.added - self.length

    @property
    def floor(self) -> StreamId:
        """The place before the stream's first entry, which is the same for every reader."""
        if not self.removed:
            return BEGINNING
        return just_before(self.oldest) if self.length else self.newest


class Missed(enum.Enum):
    """The reason why a reader may have missed messages."""

    TRIMMED = "they were trimmed before they were read"
    LOST = "Redis has come back without the newest of them"
    ANEW = "the stream in Redis was deleted or lost, and begins anew"


class Break(NamedTuple):
    """A place in a stream where messages may be missing. Its reader continues after ``after``, which may be lower."""

    why: Missed
    after: StreamId


@dataclass(slots=True)
class StreamPlace:
    """A reader's place in a stream: it has read up to ``last``, which is entry number ``count``.

    A read that asks for entries after ``last`` can't show that the stream was deleted and has started again with lower
    ids, or that its end was lost because a replica that lagged took over. So the stream's state is compared with the
    place from time to time (`compare`). Two entries that existed at the last comparison are the *landmarks*. A stream
    that has one of them is the same stream. A stream that has neither is another one, unless the landmarks may have
    been trimmed or deleted.
    """

    last: StreamId = BEGINNING
    count: int = 0
    _early: StreamId = BEGINNING  # the oldest entry at the last look, or the first that was read after it
    _late: StreamId = BEGINNING  # the newest entry that had been read at the last look
    _late_count: int = 0
    _removed: int = 0  # how many entries were gone at the last look
    _gone_from: StreamId = BEGINNING  # the place in a stream that is not there any more
    _pause_ms: int = 0  # the longest time between two entries that were read one after the other since the last look
    _after_pause: StreamId = BEGINNING  # the entry that ended it
    _expires_ms: int = 0  # the stream's known time of expiry; 0 or less for none
    _after_expiry: StreamId = BEGINNING  # the first entry after that time, since the last look

    @property
    def is_gone(self) -> bool:
        """Whether the stream was gone at the last look. The next entries may be of another one, or of the same."""
        return self._gone_from != BEGINNING

    @property
    def landmarks(self) -> tuple[StreamId, StreamId]:
        """Two entries that the stream has, if it is still the same; `BEGINNING` for none."""
        return self._early, self._late

    def compare(self, state: StreamState, now_ms: int, expiry_ms: int) -> Break | None:
        """Return the gap after this place, if messages may be missing, and move to where reading continues.

        ``now_ms`` is Redis's time. A stream expires when nothing was added to it for ``expiry_ms``, or earlier if
        another node has set another expiry, or a program has added to it without renewing that. Readers have then read
        every message in it. Call `note_look` next, after `pass_over` for each entry that was read with the state.
        """
        if self.is_gone and state.newest != BEGINNING:
            gone_from, self._gone_from = self._gone_from, BEGINNING
            if not state.has_landmark:
                self.last, self.count = state.floor, state.removed
                return Break(Missed.TRIMMED, state.floor) if state.removed else None
            self.last = gone_from
        expired = self.last == BEGINNING or now_ms - self.last[0] >= expiry_ms or 0 < self._expires_ms <= now_ms
        if state.newest < self.last:
            return self._go_back(state, expired=expired)
        if self._is_another(state):
            return self._go_over(state, expiry_ms, expired=expired)
        if self.last == state.newest or (state.length and state.oldest <= self.last):
            return None
        had, self.count = self.count, state.removed
        return Break(Missed.TRIMMED, state.floor) if state.removed > had else None

    def _go_back(self, state: StreamState, *, expired: bool) -> Break | None:
        """Move to a lower place in a stream that ends before this one."""
        if state.newest == BEGINNING:  # it is gone
            self._gone_from, self.last, self.count = self.last, BEGINNING, 0
            return None if expired else Break(Missed.ANEW, BEGINNING)
        if self._may_be_cut(state):  # and what it has was read
            self.last, self.count = state.newest, state.added
            return Break(Missed.LOST, state.newest)
        self.last, self.count = state.floor, state.removed
        return Break(Missed.ANEW, state.floor)

    def _may_be_cut(self, state: StreamState) -> bool:
        """Whether a stream that ends before this place may be the same stream without its end.

        A stream that ends before both landmarks may be an old snapshot whose entries had all been trimmed since. It is
        taken for the same stream, since otherwise thousands of old messages might be delivered again.
        """
        was_deleted = state.deleted >= self._late > BEGINNING
        return state.has_landmark or was_deleted or (self._removed > 0 and state.newest < self._early)

    def _is_another(self, state: StreamState) -> bool:
        """Whether a stream that extends beyond this place is another one."""
        if state.added < self.count:
            return True
        if state.has_landmark or self._early == BEGINNING or state.deleted >= self._late > BEGINNING:
            return False
        may_be_trimmed = state.oldest > self._late or not state.length
        return not may_be_trimmed or state.removed < self._late_count

    def _go_over(self, state: StreamState, expiry_ms: int, *, expired: bool) -> Break | None:
        """Move to another stream that extends beyond this place."""
        if state.length and state.oldest <= self.last:
            # Some of its entries up to this place may have been read live already, and nothing is delivered twice.
            self.count = 0
            # All of them have been, if its first was read next after the last of a stream that had expired by then.
            after_pause = state.oldest == self._after_pause and self._pause_ms >= expiry_ms
            is_next = (after_pause or state.oldest == self._after_expiry) and not state.removed
            return None if is_next else Break(Missed.ANEW, self.last)
        self.count = state.removed
        if not expired:
            return Break(Missed.ANEW, state.floor)
        return Break(Missed.TRIMMED, state.floor) if state.removed else None

    def note_look(self, state: StreamState, *, is_last: bool) -> None:
        """Note the state that the stream had; ``is_last`` says that all its entries have been passed over."""
        if self.is_gone:
            return  # the landmarks are kept, to recognize the same stream if it comes back
        if is_last:
            self.count = state.added
        self._early = state.oldest if state.length else BEGINNING
        self._late = self.last if state.length else BEGINNING
        self._late_count, self._removed = self.count, state.removed
        self._pause_ms, self._after_pause = 0, BEGINNING
        self._expires_ms, self._after_expiry = state.expires_ms, BEGINNING

    def pass_over(self, last: StreamId, *, renews: bool = True) -> None:
        """Record that an entry has been read; ``renews`` says that its writer has renewed the stream's expiry."""
        if 0 < self._expires_ms <= last[0]:
            self._after_expiry, self._expires_ms = last, 0
        if renews:
            self._expires_ms = 0
        pause_ms = last[0] - self.last[0]
        if pause_ms > self._pause_ms and self.last != BEGINNING:
            self._pause_ms, self._after_pause = pause_ms, last
        self.last = last
        self.count += 1
        if self._early == BEGINNING:
            self._early = last


@dataclass(slots=True)
class StreamTail:
    """The end of a stream, read page by page and newest first, to become a room's history."""

    history: History
    messages: list[StreamMessage] = field(default_factory=list)  # newest first
    is_whole: bool = False  # no page is missing
    floor: StreamId = BEGINNING  # when it is whole: the place before all messages, where others may have begun
    end: StreamState | None = None  # the state of the stream when the first page was read
    _bytes: int = 0

    @property
    def held_bytes(self) -> int:
        """The bytes of memory that it takes."""
        return self._bytes + MESSAGE_BYTES * len(self.messages)

    @property
    def before(self) -> StreamId | None:
        """The id that the next page ends before; None for the first page."""
        return self.messages[-1].id if self.messages else None

    @property
    def wanted(self) -> int:
        """The number of messages still wanted: one more than are kept, to know the place before these."""
        return self.history.messages + 1 - len(self.messages) if self.history.messages else 0

    def add(self, state: StreamState, page: Sequence[StreamMessage], now_ms: int, *, is_last: bool) -> None:
        """Add a page, and keep as much as the history would. After the last page, the tail is whole."""
        if self.end is None:
            self.end = state
        if not self.history.messages:
            self.is_whole, self.floor = True, state.newest
            return
        for message in page:
            size = len(message.payload) + MAX_HEADER_BYTES
            is_one_too_many = len(self.messages) >= self.history.messages or self._bytes + size > self.history.max_bytes
            if is_one_too_many or now_ms - message.id[0] > self.history.max_age_s * 1000:
                self.is_whole, self.floor = True, message.id
                return
            self.messages.append(message)
            self._bytes += size
        if is_last:
            self.is_whole, self.floor = True, self._beginning(state)

    def _beginning(self, state: StreamState) -> StreamId:
        """Return the place before the first message. A reader that joined the empty room got this place."""
        if not state.removed or not self.messages:
            return state.floor
        return just_before(min(self.messages[-1].id, state.oldest if state.length else HIGHEST))
