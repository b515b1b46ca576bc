"""The bytes of a room that its groups keep from being trimmed, sans-IO."""

from __future__ import annotations

from collections import deque

# The memory of a stretch (measured).
_STRETCH_BYTES = 150


class Backlog:
    """The sizes of a room's records from the oldest unfinished message on.

    Small records are counted together, as a stretch that is kept until all of it is finished. Otherwise millions of
    them would take more memory here than their messages take on the disk.
    """

    __slots__ = ("_grain", "_stretches", "bytes")

    def __init__(self, grain: int = 0) -> None:
        """Stretches have ``grain`` bytes, or less than that and one record."""
        self._grain = grain
        self._stretches: deque[tuple[int, int]] = deque()  # the last message of each, and its bytes
        self.bytes = 0

    @property
    def held_bytes(self) -> int:
        """The bytes of memory that it takes."""
        return len(self._stretches) * _STRETCH_BYTES

    def add(self, last: int, size: int) -> None:
        """Add a record that ends with a message. Earlier ones are ignored."""
        stretches = self._stretches
        if stretches:
            before, bytes_before = stretches[-1]
            if last <= before:
                return
            if bytes_before + size <= self._grain:
                stretches[-1] = last, bytes_before + size
                self.bytes += size
                return
        stretches.append((last, size))
        self.bytes += size

    def trim(self, oldest: int) -> None:
        """Leave out the records before the oldest message that isn't finished."""
        stretches = self._stretches
        while stretches and stretches[0][0] < oldest:
            self.bytes -= stretches.popleft()[1]
