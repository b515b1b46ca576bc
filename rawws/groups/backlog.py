"""The bytes of a room that its groups keep from being trimmed, sans-IO."""

from __future__ import annotations

from collections import deque


class Backlog:
    """The sizes of a room's records from the oldest unfinished message on."""

    __slots__ = ("_records", "bytes")

    def __init__(self) -> None:
        self._records: deque[tuple[int, int]] = deque()  # the last message of each, and its bytes
        self.bytes = 0

    def add(self, last: int, size: int) -> None:
        """Add a record that ends with a message. Earlier ones are ignored."""
        if self._records and last <= self._records[-1][0]:
            return
        self._records.append((last, size))
        self.bytes += size

    def trim(self, oldest: int) -> None:
        """Leave out the records before the oldest message that isn't finished."""
        records = self._records
        while records and records[0][0] < oldest:
            self.bytes -= records.popleft()[1]
