"""What one room has published, as an append-only log of encoded frames, and cursors into it.

A message is encoded once, into the bytes that every peer gets, and appended to the log's open segment. When
the broadcast loop ends its turn it *seals* the segment: the frames of the turn become one immutable ``bytes``
with a number (or several, if they are very many). A peer is a cursor: the number of the segment that it gets next,
and how much of that segment the kernel has already taken from us. So the cost of a backlog is the log, once, and not a
queue for each peer.

::

    numbers    41        42        43        44
            ┌─────────┬─────────┬─────────┬╌╌╌╌╌╌╌╌╌┐
            │ F F F F │ F       │ F F F   │ F F     ┊ open
            └─────────┴────▲────┴─────────┴╌╌╌╌╌╌╌╌╌┘
              first        │              ▲ next
                 Cursor(42, 7)            └ where peers stand that have been sent everything

Segments begin and end at frame boundaries. A cursor with offset 0 therefore stands at one, and only there may
a frame that isn't in the log (a pong, a close) be put between, or it would land inside another frame.

A segment has other *forms* beside the plain one (``wire/encodings.py``): with its large messages deflated, with each
message's id, as Server-Sent Events. Each is made once, when the first reader of its kind is sent the segment. Where
there is nothing to deflate, the deflated form is the one without.

Making a form takes time, so it is made only to be sent. A lag is counted in plain bytes: a reader in the midst of
another form is taken to have had the same fraction of them as of that form. `work` returns how much there is to do, and
`make` does it in steps of about a millisecond, so that the owner of the log can serve others in between.

Every message has a number, and with the log's epoch an id. A log may keep more than its readers need, its *history*:
the last so many messages, as long as they are young enough and not too many bytes. Whoever joins can be given these
first; `entry` finds the place, which may lie within a segment.

Messages that nobody here has leave a *gap*: a segment without messages, which each form that can tells its readers of.
So they are notified between the messages that came before and those that follow.

Sending straight from immutable bytes is what keeps the common case free of copies: everybody who has caught up
is given the same object. The log doesn't know its readers; whoever owns it calls `trim` with the lowest number
that any of them still needs, and memory in use is what lies between that and the tail.

A message of one byte in a segment of its own is three bytes on the wire and fifty times as much in memory. So what a
limit is held against are not the bytes of frames (`lag_bytes`) but what they take: `lag_cost` for one reader, and
`held_bytes` for the log with all that it has made. When the other forms take more than `FORMS_TIMES` what the log
itself does, the least recently used ones are forgotten. A form that a reader is in the midst of stays, so that a slow
reader can't have it made twice.
"""

from __future__ import annotations

import bisect
import itertools
import math
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from operator import attrgetter
from typing import NamedTuple

from rawws.limits import KIB, MIB
from rawws.wire.deflate import MIN_DEFLATE_BYTES
from rawws.wire.encodings import PLAIN, notice, skip_messages, without_deflate, work_of
from rawws.wire.frames import Opcode, count_frames, is_lone_header, skip_frames, split_frames
from rawws.wire.message_ids import Ids, NumberedIds

# As much as one send() of a peer that catches up should have: a socket's buffer is not much larger.
RUN_BYTES = 64 * KIB
MAX_RUNS = 8

# A segment has so many pieces of frames at most; a turn, or a program, may bring many more. Who asks for a place within
# it, or is the only one to get it in another form, keeps the others waiting for a few milliseconds then.
SEGMENT_PIECES = 4096
# And the most bytes of several: sending them costs far more than one system call, and making another form of them
# takes at most 8 ms.
SEGMENT_PLAIN_BYTES = 256 * KIB

# What a segment takes beside the bytes of its frames: the object, its numbers, the head of the bytes, its place in the
# log. Another form of it has a head and a place too. (Measured, with CPython 3.11 on 64 bits.)
SEGMENT_BYTES = 160
FORM_BYTES = 160
# Forms may take so much in any case: what is made again and again for a few readers is a waste.
LEAST_FORMS_BYTES = 256 * KIB
# There are seven forms besides the plain one, and few rooms have all of them. With room for much less, readers that
# catch up from different places would each have all of it made for themselves.
FORMS_TIMES = 6


class Cursor(NamedTuple):
    """Where a peer is in a log: the segment that it is being sent, and the bytes of it that have gone."""

    number: int
    offset: int = 0


class History(NamedTuple):
    """How much a log keeps for those who come later: so many messages, as long as all three hold."""

    messages: int = 0
    max_bytes: int = MIB
    max_age_s: float = 3600.0


class Entry(NamedTuple):
    """Where a reader begins: with ``rest``, the end of a segment uncompressed, and then at segment ``number``.

    ``is_gap`` says that messages are missing which came before.
    """

    rest: bytes
    number: int
    is_gap: bool


# Yields frames in another form, piece by piece; each piece is made with a bounded amount of work.
Encode = Callable[[bytes, int, Iterator[bytes]], Iterable[bytes]]


class _Segment:
    __slots__ = ("count", "deflatable", "end", "first", "plain", "sealed_at")

    def __init__(self, plain: bytes, end: int, first: int, count: int, sealed_at: float, *, deflatable: bool) -> None:
        self.plain = plain
        self.end = end  # counted in plain bytes since the log began
        self.first = first  # the number of its first message
        self.count = count
        self.sealed_at = sealed_at
        self.deflatable = deflatable

    @property
    def last(self) -> int:
        return self.first + self.count - 1

    def form_of(self, form: int) -> int:
        """Return the form that readers of a form get for this segment: without large messages, nothing is deflated."""
        return form if self.deflatable else without_deflate(form)

    def work(self, form: int) -> int:
        """Return the work of making a form."""
        return work_of(len(self.plain), self.count, form)

    def make(self, form: int, encode: Encode, ids: Ids) -> Iterator[bytes]:
        """Yield the pieces of another form."""
        return iter(encode(self.plain, form, ids.labels(self.first)))


class _Gap(_Segment):
    """The place of messages that nobody here has, which take one number. It is empty in forms that have no notices."""

    __slots__ = ("_told",)

    def __init__(self, told: Mapping[str, object], end: int, number: int, now: float) -> None:
        super().__init__(b"", end, number, 1, now, deflatable=False)
        self._told = told

    def make(self, form: int, encode: Encode, ids: Ids) -> Iterator[bytes]:
        return iter((notice(self._told, form),))


class _Making:
    """A form of a segment that is partly made."""

    __slots__ = ("pieces", "size", "steps")

    def __init__(self, steps: Iterator[bytes]) -> None:
        self.steps = steps
        self.pieces: list[bytes] = []
        self.size = 0


class BroadcastLog:
    """Encoded frames in the order in which they were published, for any number of readers.

    ``encode(frames, form, ids)`` yields the pieces of another form. ``in_use()`` returns the cursor and the form of
    each reader that is behind, for the log to know which forms are still wanted. Times are the caller's, in seconds of
    any clock.
    """

    __slots__ = (
        "_encode",
        "_forgotten",
        "_forms",
        "_forms_bytes",
        "_history_from",
        "_in_use",
        "_kinds",
        "_making",
        "_open",
        "_open_count",
        "_runs",
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
        encode: Encode,
        *,
        ids: Ids | None = None,
        history: History | None = None,
        message_bytes: int = 0,
        in_use: Callable[[], Iterable[tuple[Cursor, int]]] = tuple,
    ) -> None:
        """``message_bytes`` is what the log's owner keeps for each message beside, to be counted with it."""
        self._encode = encode
        self.message_bytes = message_bytes
        self.ids = ids or NumberedIds()
        self.history = history or _NO_HISTORY
        self._open: list[bytes | bytearray] = []
        self._open_count = 0
        self.open_bytes = 0
        self._segments: deque[_Segment] = deque()
        self.first = 0
        self.end_bytes = 0
        self.kept_bytes = 0  # of sealed segments that are kept, in plain bytes
        self.last_message = 0  # the number of the last message that was sealed
        self._history_from = 0  # the first segment that is part of the history
        self.history_bytes = 0  # of it, in plain bytes
        self._in_use = in_use
        # Forms that were made, by _key(), the most recently used at the end.
        self._forms: OrderedDict[int, bytes] = OrderedDict()
        self._kinds: set[int] = set()  # forms that may have been made of something
        self._making: dict[int, _Making] = {}  # being made
        self._runs: dict[tuple[int, int], tuple[bytes, list[int]]] = {}  # made of several segments together
        self._forms_bytes = 0  # of all three
        self._forgotten = 0  # forms, so far
        self.work_done = 0  # by making forms, as `work` counts it

    def __repr__(self) -> str:
        return f"<BroadcastLog segments {self.first}..{self.next} kept={self.kept_bytes} open={self.open_bytes}>"

    @property
    def next(self) -> int:
        """The number that the open segment will have: the tail, where readers stand that lack nothing."""
        return self.first + len(self._segments)

    @property
    def tail_id(self) -> str:
        """The id of the last message."""
        return self.label(self.last_message)

    def label(self, number: int) -> str:
        """Return the id of a message, or of the place behind it."""
        return self.ids.label(number).decode("ascii")

    @property
    def next_message(self) -> int:
        """The number that the next message gets that is appended."""
        return self.last_message + self._open_count + 1

    # Writing

    def append(self, frames: Sequence[bytes | bytearray]) -> None:
        """Add encoded frames to the open segment; a large one may be in two pieces, as `encode_message` makes them."""
        self._open += frames
        sizes = list(map(len, frames))
        self.open_bytes += sum(sizes)
        self._open_count += count_frames(frames, max(sizes, default=0))

    def seal(self, now: float = 0.0) -> bytes | None:
        """Make a segment of what was appended and return it, or None when there is nothing more.

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
        self._segments.append(
            _Segment(plain, self.end_bytes, first, count, now, deflatable=largest >= MIN_DEFLATE_BYTES)
        )
        self.last_message += count
        return plain

    def _end_of_segment(self) -> int:
        """Return how many pieces of the open segment to seal: as many as fit, or those of one message."""
        ends = list(itertools.accumulate(map(len, self._open[:SEGMENT_PIECES])))
        end = bisect.bisect_right(ends, SEGMENT_PLAIN_BYTES) or 1
        if is_lone_header(self._open[end - 1]):
            end += 1 if end == 1 else -1
        return end

    def leave_out(self, told: Mapping[str, object], now: float = 0.0) -> None:
        """Have the next number be that of messages which nobody here has, and end the history with it.

        It becomes a segment, by which readers are ``told`` as `notice` has it. Nothing may be appended and not sealed.
        Its id is for the caller to give.
        """
        assert not self._open, "what was appended is not sealed"
        self.last_message += 1
        self._segments.append(_Gap(told, self.end_bytes, self.last_message, now))
        self.end_history()

    def gaps(self, first: int, behind: int) -> list[int]:
        """Return the numbers of the gaps from a segment on, up to that before ``behind``."""
        segments = itertools.islice(self._segments, first - self.first, behind - self.first)
        return [number for number, segment in enumerate(segments, first) if isinstance(segment, _Gap)]

    def end_history(self) -> None:
        """Have no history but of what is to come; `trim` forgets what nobody needs of it."""
        self._history_from = self.next
        self.history_bytes = 0

    @property
    def sealed_at(self) -> float:
        """When the last segment was sealed that is kept; long ago, if there is none."""
        return self._segments[-1].sealed_at if self._segments else -math.inf

    @property
    def sealed_messages(self) -> int:
        """How many messages the segment has that was sealed last."""
        return self._segments[-1].count

    # Reading on

    def segment(self, number: int, form: int = PLAIN) -> bytes:
        """Return a sealed segment that hasn't been trimmed: ``first <= number < next``."""
        segment = self._segments[number - self.first]
        form = segment.form_of(form)
        if form is PLAIN:
            return segment.plain
        key = _key(number, form)
        if key in self._forms:
            self._forms.move_to_end(key)
        else:
            while not self.make(number, form):
                pass
        return self._forms[key]

    def work(self, number: int, form: int) -> int:
        """Return about how much work it is to make a form of a segment, in bytes that are deflated in the same time.

        It is 0 if the form exists.
        """
        segment = self._segments[number - self.first]
        form = segment.form_of(form)
        return 0 if form is PLAIN or _key(number, form) in self._forms else segment.work(form)

    def make(self, number: int, form: int) -> bool:
        """Do one step of making a form of a segment, and return whether it is complete."""
        segment = self._segments[number - self.first]
        form = segment.form_of(form)
        key = _key(number, form)
        if form is PLAIN or key in self._forms:
            return True
        making = self._making.get(key)
        if making is None:
            making = self._making[key] = _Making(segment.make(form, self._encode, self.ids))
            self._kinds.add(form)
            self.work_done += segment.work(form)
        try:
            piece = next(making.steps, None)
        except BaseException:  # an iterator that has failed ends, and what it has made would pass for all of it
            self._give_up_making(key)
            raise
        if piece is not None:
            making.pieces.append(piece)
            making.size += len(piece)
            self._forms_bytes += len(piece)
            return False
        self._give_up_making(key)
        self._keep_form(number, form, b"".join(making.pieces))
        return True

    def leave_plain(self, number: int, form: int) -> None:
        """Make a form of a segment without deflating, for when there is no time for that."""
        form = self._segments[number - self.first].form_of(form)
        if form != without_deflate(form) and self.work(number, form):
            self._give_up_making(_key(number, form))
            self._keep_form(number, form, self.segment(number, without_deflate(form)))

    def put_back(self, number: int, form: int, encoded: bytes) -> None:
        """Keep an existing form of which a reader has had a part, since the reader needs the rest of it."""
        form = self._segments[number - self.first].form_of(form)
        if self.work(number, form):
            self._give_up_making(_key(number, form))
            self._keep_form(number, form, encoded)

    def _keep_form(self, number: int, form: int, encoded: bytes) -> None:
        key = _key(number, form)
        self._forms[key] = encoded
        self._kinds.add(form)  # also if it is only left plain
        self._forms_bytes += len(encoded) + FORM_BYTES
        self._make_room(keep=key)

    def _give_up_making(self, key: int) -> None:
        making = self._making.pop(key, None)
        if making is not None:
            self._forms_bytes -= making.size

    def _make_room(self, keep: int = -1) -> None:
        """Forget forms, the least recently used first, until they are within their bound.

        A form of which a reader has had a part is kept. Otherwise a reader that takes a few bytes at a time would
        have it made again each time.
        """
        most = max(LEAST_FORMS_BYTES, FORMS_TIMES * self._cost())
        if self._forms_bytes <= most:
            return
        while self._runs and self._forms_bytes > most:
            self._forget_run()
        if self._forms_bytes <= most:
            return
        in_use = {
            _key(cursor.number, self._segments[cursor.number - self.first].form_of(form))
            for cursor, form in self._in_use()
            if cursor.offset
        }
        for _ in range(len(self._forms)):
            # A quarter more than needed, so that the readers' places are looked up less often.
            if self._forms_bytes <= most - most // 4:
                return
            key = next(iter(self._forms))
            # A reader may just have been sent a part of the last segment, and not be recorded yet.
            if key == keep or key in in_use or key >> _FORM_BITS == self.next - 1:
                self._forms.move_to_end(key)
            else:
                self._forget_form(key)

    def _forget_form(self, key: int) -> None:
        self._forgotten += 1
        self._forms_bytes -= len(self._forms.pop(key)) + FORM_BYTES

    def _forget_run(self) -> None:
        oldest = next(iter(self._runs))
        self._forms_bytes -= len(self._runs.pop(oldest)[0])

    def run(self, number: int, form: int, most_work: float = math.inf) -> tuple[bytes, list[int]]:
        """Return several segments joined, and the size of each, for a reader that has much to catch up with.

        After the first segment, it includes those that ``most_work`` is enough for. The result is kept: after a
        network failure, many readers come back at the same place.
        """
        known = self._runs.get((number, form))
        if known is not None:
            return known
        pieces: list[bytes] = []
        size, forgotten = 0, self._forgotten
        for following in range(number, self.next):
            if pieces:
                most_work -= self.work(following, form)
                if most_work < 0:
                    break
            piece = self.segment(following, form)
            if pieces and size + len(piece) > RUN_BYTES:
                break
            pieces.append(piece)
            size += len(piece)
        known = b"".join(pieces), list(map(len, pieces))
        # A form that was forgotten meanwhile may be made again as other bytes (`leave_plain`), and a reader that has
        # had a part of one must not go on in the other. So a run is kept only if all of its forms are.
        if self._forgotten == forgotten and len(pieces) > 1:  # else it is the segment itself
            if len(self._runs) >= MAX_RUNS:
                self._forget_run()
            self._runs[number, form] = known
            self._forms_bytes += size
            self._make_room()
        return known

    def lag_bytes(self, cursor: Cursor, form: int = PLAIN) -> int:
        """Return how many sealed bytes lie between a cursor and the tail, as plain frames.

        In the present segment, a reader of another form lacks the same fraction of plain frames as of its form. No form
        is made for this: a reader can't have had a part of one that doesn't exist.
        """
        if cursor.number == self.next:
            return 0
        segment = self._segments[cursor.number - self.first]
        lacking = self.end_bytes - segment.end + len(segment.plain)
        if not cursor.offset:
            return lacking
        form = segment.form_of(form)
        encoded = segment.plain if form is PLAIN else self._forms.get(_key(cursor.number, form))
        return lacking if encoded is None else lacking - len(segment.plain) * cursor.offset // len(encoded)

    def lag_cost(self, cursor: Cursor, form: int = PLAIN) -> int:
        """Return what is held because of a cursor, for a limit: the bytes of the lag, and what these take beside."""
        number = cursor.number
        if number == self.next:
            return 0
        messages = self.last_message - self.last_before(number)
        beside = (self.next - number) * SEGMENT_BYTES + messages * (self.message_bytes + self.ids.bytes_each)
        return self.lag_bytes(cursor, form) + beside

    @property
    def held_bytes(self) -> int:
        """What the log takes, with all forms that were made of it."""
        return self._cost() + self._forms_bytes

    def _cost(self) -> int:
        """Return what the sealed segments take in memory."""
        if not self._segments:
            return 0
        messages = self.last_message - self._segments[0].first + 1
        beside = len(self._segments) * SEGMENT_BYTES + messages * (self.message_bytes + self.ids.bytes_each)
        return self.kept_bytes + beside

    def last_before(self, number: int) -> int:
        """Return the number of the last message before a segment."""
        return self.last_message if number == self.next else self.first_of(number) - 1

    # History

    def entry(self, after: int, form: int, now: float) -> Entry:
        """Return where a reader begins that has had all messages up to that number."""
        oldest = self.oldest(now)
        is_gap = after + 1 < oldest or after > self.last_message
        wanted = oldest if is_gap else after + 1
        if wanted > self.last_message:
            return Entry(b"", self.next, is_gap)
        number, segment = self._find(wanted)
        skipped = wanted - segment.first
        if not skipped:
            return Entry(b"", number, is_gap)
        # Uncompressed, and cut from what all readers in this segment share: a crowd may come, each to another place.
        form = without_deflate(form)
        encoded = self.segment(number, form)
        return Entry(encoded[skip_messages(encoded, skipped, form) :], number + 1, is_gap)

    def messages(self, after: int, *, most: int, most_bytes: int) -> Iterator[tuple[bytes, Opcode, memoryview]]:
        """Yield the messages after a number that are kept, at least one, within bounds; payloads are views."""
        if after >= self.last_message:
            return
        number, _ = self._find(after + 1)
        for segment in itertools.islice(self._segments, number - self.first, None):
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
        """Return the number of the segment that has a message; of the open one, if it is yet to come."""
        return self.next if message > self.last_message else self._find(message)[0]

    def _find(self, message: int) -> tuple[int, _Segment]:
        """Return the segment that has a message, or the first that is kept."""
        index = max(0, bisect.bisect_right(self._segments, message, key=attrgetter("first")) - 1)
        return self.first + index, self._segments[index]

    def oldest(self, now: float) -> int:
        """Return the number of the oldest message that the history has; that of the next one, if it has none."""
        self._age(now)
        if self._history_from >= self.next:
            return self.last_message + 1
        first = self._segments[self._history_from - self.first].first
        return max(first, self.last_message - self.history.messages + 1)

    def _age(self, now: float) -> None:
        """Move the history's beginning up to where it is young and small enough."""
        count, max_bytes, max_age_s = self.history
        while self._history_from < self.next:
            segment = self._segments[self._history_from - self.first]
            fits = self.history_bytes <= max_bytes
            if segment.last > self.last_message - count and fits and now - segment.sealed_at < max_age_s:
                return
            self.history_bytes -= len(segment.plain)
            self._history_from += 1

    def trim(self, number: int, now: float = 0.0) -> None:
        """Forget the segments before ``number``, but for the history; no cursor may point to them any more."""
        self._age(now)
        number = min(number, self._history_from)
        if self.first < number and self._runs:
            self._forms_bytes -= sum(len(run) for run, _ in self._runs.values())
            self._runs.clear()
        while self._segments and self.first < number:
            self.kept_bytes -= len(self._segments.popleft().plain)
            for form in self._kinds:
                key = _key(self.first, form)
                if key in self._forms:
                    self._forget_form(key)
                self._give_up_making(key)
            self.first += 1
        self.ids.forget(min(self.last_before(self.first), self.oldest(now) - 1))


_NO_HISTORY = History()
_FORM_BITS = 8


def _key(number: int, form: int) -> int:
    """Return the key of a form of a segment: one number, since a tuple would take as much memory again."""
    return number << _FORM_BITS | form
