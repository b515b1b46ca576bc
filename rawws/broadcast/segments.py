"""The segments of a broadcast log: runs of messages as plain frames, and gaps between them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from rawws.broadcast.encodings import Encoding
from rawws.broadcast.message_ids import Ids
from rawws.wire.deflate import MIN_DEFLATE_BYTES

# The memory of a segment besides the bytes of its frames: the object, its numbers, the header of the bytes object, its
# place in the log. (Measured, with CPython 3.11 on 64 bits.)
SEGMENT_BYTES = 160


class Segment:
    """A run of whole plain frames, sealed at a time.

    ``end`` is its end, in plain bytes since the log began. ``first`` is the number of its first message, ``count`` that
    of its messages, and ``largest`` the size of the largest piece that it was made of.
    """

    __slots__ = ("count", "end", "first", "has_large", "plain", "sealed_at")

    def __init__(self, plain: bytes, end: int, first: int, count: int, sealed_at: float, largest: int) -> None:
        self.plain = plain
        self.end = end
        self.first = first
        self.count = count
        self.sealed_at = sealed_at
        self.has_large = largest >= MIN_DEFLATE_BYTES  # messages, which compression makes smaller

    @property
    def last(self) -> int:
        """The number of its last message."""
        return self.first + self.count - 1

    def encoding_for(self, encoding: Encoding) -> Encoding:
        """Return the encoding in which readers get this segment: without large messages, nothing is compressed."""
        return encoding if self.has_large else encoding.uncompressed

    def work(self, encoding: Encoding) -> int:
        """Return the work of encoding the segment, in the unit of `Encoding.work`."""
        return encoding.work(len(self.plain), self.count)

    def encode_in_steps(self, encoding: Encoding, ids: Ids) -> Iterator[bytes]:
        """Yield the segment in an encoding, in pieces; each piece takes a bounded amount of work."""
        return encoding.encode_in_steps(self.plain, ids.labels(self.first))


class Gap(Segment):
    """The place of messages that nobody here has, which take one number.

    It is a control with these ``members``. It is empty in encodings that have no controls.
    """

    __slots__ = ("_members",)

    def __init__(self, members: Mapping[str, object], end: int, number: int, sealed_at: float) -> None:
        super().__init__(b"", end, number, 1, sealed_at, 0)
        self._members = members

    def encode_in_steps(self, encoding: Encoding, ids: Ids) -> Iterator[bytes]:
        return iter((encoding.encode_control(self._members),))
