"""What one room has published, as an append-only log of encoded frames, and cursors into it.

A message is encoded once, into the bytes that every peer gets, and appended to the log's open segment. When
the broadcast loop ends its turn it *seals* the segment: the frames of the turn become one immutable ``bytes``
with a number. A peer is a cursor: the number of the segment that it gets next, and how much of that segment the
kernel has already taken from us. So the cost of a backlog is the log, once, and not a queue for each peer.

::

    numbers    41        42        43        44
            ┌─────────┬─────────┬─────────┬╌╌╌╌╌╌╌╌╌┐
            │ F F F F │ F       │ F F F   │ F F     ┊ open
            └─────────┴────▲────┴─────────┴╌╌╌╌╌╌╌╌╌┘
              first        │              ▲ next
                 Cursor(42, 7)            └ where peers stand that have been sent everything

Segments begin and end at frame boundaries. A cursor with offset 0 therefore stands at one, and only there may
a frame that isn't in the log (a pong, a close) be put between, or it would land inside another frame.

A segment has other *forms* beside the plain one: with its large messages deflated, for the peers that agreed on
permessage-deflate. A form is named by the window that those peers can inflate (`PLAIN` is none), and made once,
when the first of them is sent the segment. Where there is nothing to deflate, it is the plain segment itself.

Sending straight from immutable bytes is what keeps the common case free of copies: everybody who has caught up
is given the same object. The log doesn't know its readers; whoever owns it calls `trim` with the lowest number
that any of them still needs, and memory in use is what lies between that and the tail.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import NamedTuple

from rawws.wire.deflate import MIN_DEFLATE_BYTES
from rawws.wire.frames import parse_header


class Cursor(NamedTuple):
    """Where a peer is in a log: the segment that it is being sent, and the bytes of it that have gone."""

    number: int
    offset: int = 0


# The form in which the frames were appended.
PLAIN = 0


class _Segment:
    __slots__ = ("end", "forms", "plain")

    def __init__(self, plain: bytes, end: int, *, deflatable: bool) -> None:
        self.plain = plain
        self.end = end  # counted in plain bytes since the log began
        self.forms: dict[int, bytes] | None = {} if deflatable else None


class BroadcastLog:
    """Encoded frames in the order in which they were published, for any number of readers.

    ``deflate(frames, window_bits)`` makes the other forms.
    """

    __slots__ = (
        "_deflate",
        "_open",
        "_open_deflatable",
        "_segments",
        "end_bytes",
        "first",
        "open_bytes",
        "sealed_pieces",
    )

    def __init__(self, deflate: Callable[[bytes, int], bytes]) -> None:
        self._deflate = deflate
        self._open: list[bytes | bytearray] = []
        self._open_deflatable = False
        self.open_bytes = 0
        self.sealed_pieces = 0  # how many pieces the segment sealed last was made of: frames, but for large ones
        self._segments: deque[_Segment] = deque()
        self.first = 0
        self.end_bytes = 0

    def __repr__(self) -> str:
        return f"<BroadcastLog segments {self.first}..{self.next} kept={self.kept_bytes} open={self.open_bytes}>"

    @property
    def next(self) -> int:
        """The number that the open segment will have: the tail, where readers stand that lack nothing."""
        return self.first + len(self._segments)

    @property
    def kept_bytes(self) -> int:
        """How many plain bytes of sealed segments are kept."""
        return sum(len(segment.plain) for segment in self._segments)

    def append(self, frames: Sequence[bytes | bytearray]) -> None:
        """Add encoded frames to the open segment; a frame may be in several pieces."""
        self._open += frames
        sizes = list(map(len, frames))
        self.open_bytes += sum(sizes)
        if not self._open_deflatable and max(sizes, default=0) >= MIN_DEFLATE_BYTES:
            self._open_deflatable = True

    def seal(self) -> bytes | None:
        """Close the open segment and return it, or None when nothing was appended."""
        if not self._open:
            return None
        plain = b"".join(self._open)
        self.sealed_pieces = len(self._open)
        self._open.clear()
        self.open_bytes = 0
        self.end_bytes += len(plain)
        self._segments.append(_Segment(plain, self.end_bytes, deflatable=self._open_deflatable))
        self._open_deflatable = False
        return plain

    def segment(self, number: int, form: int = PLAIN) -> bytes:
        """Return a sealed segment that hasn't been trimmed: ``first <= number < next``."""
        segment = self._segments[number - self.first]
        if form is PLAIN or segment.forms is None:
            return segment.plain
        deflated = segment.forms.get(form)
        if deflated is None:
            deflated = segment.forms[form] = self._deflate(segment.plain, form)
        return deflated

    def lag_bytes(self, cursor: Cursor, form: int = PLAIN) -> int:
        """Return how many sealed bytes lie between a cursor and the tail.

        For a compressed form it is what the messages behind the present segment have uncompressed.
        """
        if cursor.number == self.next:
            return 0
        behind = self.end_bytes - self._segments[cursor.number - self.first].end
        return behind + len(self.segment(cursor.number, form)) - cursor.offset

    def rest_of_frame(self, cursor: Cursor, form: int = PLAIN, *, committed_bytes: int = 0) -> bytes:
        """Return what a peer must still get so as to stand at a frame boundary; empty if it stands at one.

        ``committed_bytes`` behind the cursor have to go out in any case.
        """
        at = cursor.offset + committed_bytes
        if not at:
            return b""
        segment = self.segment(cursor.number, form)
        boundary = 0
        while boundary < at:
            header = parse_header(segment, boundary)
            assert header is not None, "a segment ends inside a frame header"
            boundary += len(header.raw) + header.payload_bytes
        return segment[cursor.offset : boundary]

    def trim(self, number: int) -> None:
        """Forget the segments before ``number``; no cursor may point to them any more."""
        while self._segments and self.first < number:
            self._segments.popleft()
            self.first += 1
