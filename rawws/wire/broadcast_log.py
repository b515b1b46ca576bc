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

Sending straight from immutable bytes is what keeps the common case free of copies: everybody who has caught up
is given the same object. The log doesn't know its readers; whoever owns it calls `trim` with the lowest number
that any of them still needs, and memory in use is what lies between that and the tail.
"""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

from rawws.wire.frames import parse_header


class Cursor(NamedTuple):
    """Where a peer is in a log: the segment that it is being sent, and the bytes of it that have gone."""

    number: int
    offset: int = 0


class BroadcastLog:
    """Encoded frames in the order in which they were published, for any number of readers."""

    __slots__ = ("_ends", "_open", "_segments", "end_bytes", "first", "open_bytes")

    def __init__(self) -> None:
        self._open: list[bytes] = []
        self.open_bytes = 0
        self._segments: deque[bytes] = deque()
        self._ends: deque[int] = deque()  # of each segment, counted in bytes since the log began
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
        return sum(map(len, self._segments))

    def append(self, frame: bytes) -> None:
        """Add one encoded frame, or several, to the open segment."""
        self._open.append(frame)
        self.open_bytes += len(frame)

    def seal(self) -> bytes | None:
        """Close the open segment and return it, or None when nothing was appended."""
        if not self._open:
            return None
        segment = b"".join(self._open)
        self._open.clear()
        self.open_bytes = 0
        self.end_bytes += len(segment)
        self._segments.append(segment)
        self._ends.append(self.end_bytes)
        return segment

    def segment(self, number: int) -> bytes:
        """Return a sealed segment that hasn't been trimmed: ``first <= number < next``."""
        return self._segments[number - self.first]

    def lag_bytes(self, cursor: Cursor) -> int:
        """Return how many sealed bytes lie between a cursor and the tail."""
        if cursor.number == self.next:
            return 0
        index = cursor.number - self.first
        return self.end_bytes - self._ends[index] + len(self._segments[index]) - cursor.offset

    def rest_of_frame(self, cursor: Cursor) -> bytes:
        """Return what a peer must still get so as to stand at a frame boundary; empty if it stands at one."""
        if not cursor.offset:
            return b""
        segment = self.segment(cursor.number)
        boundary = 0
        while boundary < cursor.offset:
            header = parse_header(segment, boundary)
            assert header is not None, "a segment ends inside a frame header"
            boundary += len(header.raw) + header.payload_bytes
        return segment[cursor.offset : boundary]

    def trim(self, number: int) -> None:
        """Forget the segments before ``number``; no cursor may point to them any more."""
        while self._segments and self.first < number:
            self._segments.popleft()
            self._ends.popleft()
            self.first += 1
