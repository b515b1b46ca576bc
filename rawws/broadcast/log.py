"""The messages of one room, as an append-only log of encoded frames, and cursors into it.

A message is encoded once, into the bytes that every peer gets, and appended to the log's open segment. When the
broadcast loop ends its turn, it *seals* the segment: the frames of the turn become one immutable ``bytes`` with a
number (or several, if there are very many frames). A peer is a cursor: the number of the segment that it gets next, and
the number of bytes of that segment that the kernel has already taken. So a backlog costs one log, and not a queue for
each peer.

::

    numbers    41        42        43        44
            ┌─────────┬─────────┬─────────┬╌╌╌╌╌╌╌╌╌┐
            │ F F F F │ F       │ F F F   │ F F     ┊ open
            └─────────┴────▲────┴─────────┴╌╌╌╌╌╌╌╌╌┘
              first        │              ▲ next
                 Cursor(42, 7)            └ the place of peers that have been sent everything

Segments begin and end at frame boundaries, so a cursor with offset 0 is at one. Only there can a frame that isn't in
the log, such as a pong or a close, be sent. Elsewhere it would land inside another frame.

A segment can be sent in other *encodings* besides the plain one (``broadcast/encodings.py``): with its large messages
compressed, with each message's id, as Server-Sent Events. Each encoding is made once, when the segment is sent to the
first reader that needs it (``broadcast/encoded_segments.py``). A segment without large messages is never compressed.

Encoding takes time, so a segment is encoded only when it is sent. A lag is counted in plain bytes: a reader that has
got a fraction of an encoded segment counts as having got the same fraction of the plain one. `work` returns how much
work encoding takes, and `make` does it in steps of about a millisecond, so that the log's owner can serve others in
between.

Every message has a number, and together with the log's epoch that is its id. A log may keep more than its readers need,
its *history*: the last messages, while they are young enough and not too large. A new reader can get these first, and
`replay_start` finds where they begin, which may be within a segment.

Messages that are missing here leave a *gap*: a segment without messages, which is a control in the encodings that have
controls. So readers learn of it between the messages before and after it.

Nothing is copied in the common case, since segments are immutable: all peers that are caught up are sent the same
object. The log doesn't know its readers. Its owner calls `trim` with the lowest number that any of them still needs,
and the log keeps the segments from there to the tail.

A message of one byte in a segment of its own takes three bytes on the wire, and fifty times as much memory. So limits
apply to memory and not to the bytes of frames (`lag_bytes`): `lag_cost` is the memory for one reader, and `held_bytes`
that of the log with its encoded segments. When the encoded segments take more than `MAX_ENCODED_RATIO` times the log's
own memory, the least recently used ones are forgotten. A segment that a reader has got in part stays, so that a slow
reader can't cause it to be encoded twice.
"""

from __future__ import annotations

import bisect
import itertools
import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from operator import attrgetter
from typing import NamedTuple

from rawws.broadcast.encoded_segments import EncodedSegments
from rawws.broadcast.encodings import PLAIN, Encoding
from rawws.broadcast.message_ids import Ids, NumberedIds
from rawws.broadcast.segments import SEGMENT_BYTES, Gap, Segment
from rawws.limits import KIB, MIB
from rawws.wire.frames import Opcode, count_frames, is_lone_header, skip_frames, split_frames

# The bytes for one send() to a peer that catches up: a socket's buffer is not much larger.
RUN_BYTES = 64 * KIB

# A segment has at most this number of pieces of frames; a turn, or a program, may bring many more. A reader that asks
# for a place within such a segment, or is the only one with its encoding, delays the others for a few milliseconds.
SEGMENT_PIECES = 4096
# A segment of several messages has at most this many bytes: sending them costs far more than one system call, and
# encoding them takes at most 8 ms.
SEGMENT_PLAIN_BYTES = 256 * KIB

# Encoded segments may always take this much memory, since encoding again and again for a few readers is a waste.
MIN_ENCODED_BYTES = 256 * KIB
# There are seven encodings besides the plain one, and few rooms use all of them. With room for much less, readers that
# catch up from different places would each have all of it encoded for themselves.
MAX_ENCODED_RATIO = 6


class Cursor(NamedTuple):
    """A peer's place in a log: the segment that it is being sent, and the number of its bytes that have been sent."""

    number: int
    offset: int = 0


class History(NamedTuple):
    """How much a log keeps for later readers: the last messages, as long as all three limits hold."""

    messages: int = 0  # how many are kept
    max_bytes: int = MIB  # about the size of all of them
    max_age_s: float = 3600.0  # seconds for which each is kept


class ReplayStart(NamedTuple):
    """Where a reader begins: with ``rest``, the end of a segment uncompressed, and then at segment ``number``.

    ``is_gap`` says that messages are missing which came before.
    """

    rest: bytes
    number: int
    is_gap: bool


class BroadcastLog:
    """Encoded frames in the order in which they were published, for any number of readers.

    Times are the caller's, in seconds of any clock.
    """

    __slots__ = (
        "_encoded",
        "_history_from",
        "_in_use",
        "_open",
        "_open_count",
        "_segments",
        "end_bytes",
        "first",
        "history",
        "history_bytes",
        "ids",
        "kept_bytes",
        "last_message",
        "message_bytes",
        "open_bytes",
        "work_done",
    )

    def __init__(
        self,
        *,
        ids: Ids | None = None,
        history: History | None = None,
        message_bytes: int = 0,
        in_use: Callable[[], Iterable[tuple[Cursor, Encoding]]] = tuple,
    ) -> None:
        """``message_bytes`` is what the log's owner keeps for each message besides, to be counted with it.

        ``in_use()`` returns the cursor and the encoding of each lagging reader, for the log to know which encoded
        segments are still needed.
        """
        self.message_bytes = message_bytes
        self.ids = ids or NumberedIds()
        self.history = history or _NO_HISTORY
        self._open: list[bytes | bytearray] = []
        self._open_count = 0
        self.open_bytes = 0
        self._segments: deque[Segment] = deque()
        self.first = 0
        self.end_bytes = 0
        self.kept_bytes = 0  # of sealed segments that are kept, in plain bytes
        self.last_message = 0  # the number of the last message that was sealed
        self._history_from = 0  # the first segment that is part of the history
        self.history_bytes = 0  # of it, in plain bytes
        self._in_use = in_use
        self._encoded = EncodedSegments()
        self.work_done = 0  # by encoding, as `work` counts it

    def __repr__(self) -> str:
        return f"<BroadcastLog segments {self.first}..{self.next} kept={self.kept_bytes} open={self.open_bytes}>"

    @property
    def next(self) -> int:
        """The number that the open segment will have. This is the tail, the place of readers that lack nothing."""
        return self.first + len(self._segments)

    @property
    def tail_id(self) -> str:
        """The id of the last message."""
        return self.label(self.last_message)

    def label(self, number: int) -> str:
        """Return the id of a message, or of the place after it."""
        return self.ids.label(number).decode("ascii")

    @property
    def next_message(self) -> int:
        """The number of the next message that is appended."""
        return self.last_message + self._open_count + 1

    # Writing

    def append(self, frames: Sequence[bytes | bytearray]) -> None:
        """Add encoded frames to the open segment; a large one may be in two pieces, as `encode_message` makes them."""
        self._open += frames
        sizes = list(map(len, frames))
        self.open_bytes += sum(sizes)
        self._open_count += count_frames(frames, max(sizes, default=0))

    def seal(self, now: float = 0.0) -> bytes | None:
        """Make a segment of the appended messages and return it, or None when there are none.

        It takes the first of very many or very large messages. Call it again until nothing is left.
        """
        if not self._open:
            return None
        pieces = self._open
        if len(pieces) > SEGMENT_PIECES or (self.open_bytes > SEGMENT_PLAIN_BYTES and len(pieces) > 1):
            end = self._end_of_segment()
            pieces, self._open = pieces[:end], pieces[end:]
        else:
            self._open = []
        plain = b"".join(pieces)
        size, largest = len(plain), max(map(len, pieces))
        first, count = self.last_message + 1, count_frames(pieces, largest)
        self.open_bytes -= size
        self._open_count -= count
        self.end_bytes += size
        self.kept_bytes += size
        self.history_bytes += size
        self._segments.append(Segment(plain, self.end_bytes, first, count, now, largest))
        self.last_message += count
        return plain

    def _end_of_segment(self) -> int:
        """Return how many pieces of the open segment to seal: as many as fit, or those of one message."""
        ends = list(itertools.accumulate(map(len, self._open[:SEGMENT_PIECES])))
        end = bisect.bisect_right(ends, SEGMENT_PLAIN_BYTES) or 1
        if is_lone_header(self._open[end - 1]):
            end += 1 if end == 1 else -1
        return end

    def record_gap(self, members: Mapping[str, object], now: float = 0.0, *, ends_history: bool = True) -> None:
        """Record a gap: messages are missing here, and take the next number together.

        The gap is a segment of its own, a control with these ``members``. All appended messages must have been sealed.
        The caller sets the gap's id. Unless it ends the history, the messages before it are for later readers, too.
        """
        assert not self._open, "what was appended is not sealed"
        self.last_message += 1
        self._segments.append(Gap(members, self.end_bytes, self.last_message, now))
        if ends_history:
            self.end_history()

    def is_gap(self, message: int) -> bool:
        """Return whether a number is that of a gap, and not of a message."""
        return message <= self.last_message and isinstance(self._find(message)[1], Gap)

    def gaps(self, first: int, end: int) -> list[int]:
        """Return the numbers of the gaps from segment ``first`` to the one before ``end``."""
        segments = itertools.islice(self._segments, first - self.first, end - self.first)
        return [number for number, segment in enumerate(segments, first) if isinstance(segment, Gap)]

    def end_history(self) -> None:
        """End the history: only later messages are part of it. `trim` forgets the messages that nobody needs."""
        self._history_from = self.next
        self.history_bytes = 0

    @property
    def sealed_at(self) -> float:
        """The time when the newest kept segment was sealed; long ago, if there is none."""
        return self._segments[-1].sealed_at if self._segments else -math.inf

    @property
    def sealed_messages(self) -> int:
        """The number of messages in the newest sealed segment."""
        return self._segments[-1].count

    # Reading on

    def segment(self, number: int, encoding: Encoding = PLAIN) -> bytes:
        """Return a sealed segment that hasn't been trimmed: ``first <= number < next``."""
        segment = self._segments[number - self.first]
        encoding = segment.encoding_for(encoding)
        if encoding is PLAIN:
            return segment.plain
        encoded = self._encoded.use(number, encoding)
        while encoded is None:
            encoded = self._step(segment, number, encoding)
        return encoded

    def work(self, number: int, encoding: Encoding) -> int:
        """Return about how much work it is to encode a segment, in the unit of `Encoding.work`.

        It is 0 if the segment is encoded already.
        """
        segment = self._segments[number - self.first]
        encoding = segment.encoding_for(encoding)
        return 0 if encoding is PLAIN or self._encoded.has(number, encoding) else segment.work(encoding)

    def make(self, number: int, encoding: Encoding) -> bool:
        """Do one step of encoding a segment, and return whether it is complete."""
        segment = self._segments[number - self.first]
        encoding = segment.encoding_for(encoding)
        if encoding is PLAIN or self._encoded.has(number, encoding):
            return True
        return self._step(segment, number, encoding) is not None

    def _step(self, segment: Segment, number: int, encoding: Encoding) -> bytes | None:
        def start() -> Iterator[bytes]:
            self.work_done += segment.work(encoding)
            return segment.encode_in_steps(encoding, self.ids)

        encoded = self._encoded.step(number, encoding, start)
        if encoded is not None:
            self._keep(number, encoding, encoded)
        return encoded

    def leave_plain(self, number: int, encoding: Encoding) -> None:
        """Encode a segment without compressing it, because there is no time for that."""
        encoding = self._segments[number - self.first].encoding_for(encoding)
        if encoding is not encoding.uncompressed and self.work(number, encoding):
            self._keep(number, encoding, self.segment(number, encoding.uncompressed))

    def put_back(self, number: int, encoding: Encoding, encoded: bytes) -> None:
        """Keep an encoded segment that a reader has got in part, since the reader needs the rest of it."""
        encoding = self._segments[number - self.first].encoding_for(encoding)
        if self.work(number, encoding):
            self._keep(number, encoding, encoded)

    def _keep(self, number: int, encoding: Encoding, encoded: bytes) -> None:
        self._encoded.keep(number, encoding, encoded)
        self._make_room((number, encoding))

    def _make_room(self, *kept: tuple[int, Encoding]) -> None:
        """Forget encoded segments, the least recently used first, until they are within their bound.

        One of which a reader has had a part is kept. Otherwise a reader that takes a few bytes at a time would have it
        encoded again each time. A reader may just have been sent a part of the last segment, and not be recorded yet.
        """

        def needed() -> Iterator[tuple[int, Encoding]]:
            yield from kept
            for (number, offset), encoding in self._in_use():
                if offset:
                    yield number, self._segments[number - self.first].encoding_for(encoding)

        self._encoded.shrink(max(MIN_ENCODED_BYTES, MAX_ENCODED_RATIO * self._cost()), needed, self.next - 1)

    def run(self, number: int, encoding: Encoding, max_work: float = math.inf) -> tuple[bytes, list[int]]:
        """Return several segments joined, and the size of each, for a reader that has much to catch up with.

        After the first segment, it includes those that ``max_work`` is enough for. The result is kept: after a
        network failure, many readers come back at the same place.
        """
        known = self._encoded.run(number, encoding)
        if known is not None:
            return known
        pieces: list[bytes] = []
        size, forgotten = 0, self._encoded.forgotten
        for following in range(number, self.next):
            if pieces:
                max_work -= self.work(following, encoding)
                if max_work < 0:
                    break
            piece = self.segment(following, encoding)
            if pieces and size + len(piece) > RUN_BYTES:
                break
            pieces.append(piece)
            size += len(piece)
        made = b"".join(pieces), list(map(len, pieces))
        # A segment that was forgotten meanwhile may be encoded again as other bytes (`leave_plain`), and a reader that
        # has had a part of one must not go on in the other. So a run is kept only if all of its segments are.
        if self._encoded.forgotten == forgotten and len(pieces) > 1:  # else it is the segment itself
            self._encoded.keep_run(number, encoding, made)
            self._make_room()
        return made

    def lag_bytes(self, cursor: Cursor, encoding: Encoding = PLAIN) -> int:
        """Return how many sealed bytes lie between a cursor and the tail, as plain frames.

        In the present segment, a reader with another encoding lacks the same fraction of plain frames as of what it is
        sent. Nothing is encoded for this: a reader can't have had a part of what doesn't exist.
        """
        number, offset = cursor
        if number == self.next:
            return 0
        segment = self._segments[number - self.first]
        size = len(segment.plain)
        lacking = self.end_bytes - segment.end + size
        if not offset:
            return lacking
        encoding = segment.encoding_for(encoding)
        if encoding is PLAIN:
            return lacking - offset
        encoded_size = self._encoded.size_of(number, encoding)
        return lacking if encoded_size is None else lacking - size * offset // encoded_size

    def lag_cost(self, cursor: Cursor, encoding: Encoding = PLAIN) -> int:
        """Return the memory that is held because of a cursor, for a limit: the bytes of the lag, and the overhead."""
        number = cursor.number
        if number == self.next:
            return 0
        messages = self.last_message - self.last_before(number)
        overhead = (self.next - number) * SEGMENT_BYTES + messages * (self.message_bytes + self.ids.bytes_each)
        return self.lag_bytes(cursor, encoding) + overhead

    @property
    def held_bytes(self) -> int:
        """The memory of the log, with its encoded segments."""
        return self._cost() + self._encoded.size_bytes

    def _cost(self) -> int:
        """Return the memory of the sealed segments."""
        if not self._segments:
            return 0
        messages = self.last_message - self._segments[0].first + 1
        overhead = len(self._segments) * SEGMENT_BYTES + messages * (self.message_bytes + self.ids.bytes_each)
        return self.kept_bytes + overhead

    def last_before(self, number: int) -> int:
        """Return the number of the last message before a segment."""
        return self.last_message if number == self.next else self.first_of(number) - 1

    # History

    def replay_start(self, after: int, encoding: Encoding, now: float) -> ReplayStart:
        """Return where a reader starts that has all messages up to number ``after``."""
        oldest = self.oldest(now)
        is_gap = after + 1 < oldest or after > self.last_message
        wanted = oldest if is_gap else after + 1
        if wanted > self.last_message:
            return ReplayStart(b"", self.next, is_gap)
        number, segment = self._find(wanted)
        skipped = wanted - segment.first
        if not skipped:
            return ReplayStart(b"", number, is_gap)
        # Uncompressed, and cut from what all readers in this segment share: a crowd may come, each to another place.
        encoding = encoding.uncompressed
        encoded = self.segment(number, encoding)
        return ReplayStart(encoded[encoding.skip_messages(encoded, skipped) :], number + 1, is_gap)

    def messages(self, after: int, *, most: int, most_bytes: int) -> Iterator[tuple[bytes, Opcode, memoryview]]:
        """Yield the messages after a number that are kept, at least one, within bounds and up to a gap.

        Payloads are views.
        """
        if after >= self.last_message:
            return
        number, _ = self._find(after + 1)
        for segment in itertools.islice(self._segments, number - self.first, None):
            if isinstance(segment, Gap) and segment.first > after + 1:
                return
            known = max(0, after + 1 - segment.first)
            frames = split_frames(memoryview(segment.plain)[skip_frames(segment.plain, known) :])
            for message, (header, payload) in enumerate(frames, segment.first + known):
                most, most_bytes = most - 1, most_bytes - len(payload)
                yield self.ids.label(message), Opcode(header.opcode), payload
                if most <= 0 or most_bytes <= 0:
                    return

    def keeps(self, plain: object) -> bool:
        """Return whether an object is one of the plain segments that are kept. This takes a while if there are many."""
        return any(segment.plain is plain for segment in self._segments)

    def first_of(self, number: int) -> int:
        """Return the number of a sealed segment's first message."""
        return self._segments[number - self.first].first

    def span(self, number: int) -> tuple[int, int]:
        """Return the numbers of a sealed segment's first and last messages."""
        segment = self._segments[number - self.first]
        return segment.first, segment.last

    def number_of(self, message: int) -> int:
        """Return the number of the segment that has a message; for a future message, that of the open one."""
        return self.next if message > self.last_message else self._find(message)[0]

    def _find(self, message: int) -> tuple[int, Segment]:
        """Return the segment that has a message, or the first that is kept."""
        index = max(0, bisect.bisect_right(self._segments, message, key=attrgetter("first")) - 1)
        return self.first + index, self._segments[index]

    def oldest(self, now: float) -> int:
        """Return the number of the oldest message in the history; if there is none, that of the next message."""
        self._age(now)
        if self._history_from >= self.next:
            return self.last_message + 1
        first = self._segments[self._history_from - self.first].first
        return max(first, self.last_message - self.history.messages + 1)

    def _age(self, now: float) -> None:
        """Move the start of the history forward until it is young and small enough."""
        count, max_bytes, max_age_s = self.history
        while self._history_from < self.next:
            segment = self._segments[self._history_from - self.first]
            fits = self.history_bytes <= max_bytes
            if segment.last > self.last_message - count and fits and now - segment.sealed_at < max_age_s:
                return
            self.history_bytes -= len(segment.plain)
            self._history_from += 1

    def trim(self, number: int, now: float = 0.0) -> None:
        """Forget the segments before ``number``, except the history. No cursor may point to them any more."""
        self._age(now)
        number = min(number, self._history_from)
        while self._segments and self.first < number:
            self.kept_bytes -= len(self._segments.popleft().plain)
            self._encoded.forget_segment(self.first)
            self.first += 1
        self.ids.forget(min(self.last_before(self.first), self.oldest(now) - 1))


_NO_HISTORY = History()
