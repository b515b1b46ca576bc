"""The senders of the messages in a room whose peers are not sent their own messages."""

from __future__ import annotations

import bisect
from array import array
from collections.abc import Iterator

from rawws.wire.frames import frame_ends


class SenderRuns:
    """The senders of a log's messages, as runs of one sender each: few bytes, since a message may have one byte."""

    bytes_each = 16  # the memory of a run, which may be one message

    def __init__(self) -> None:
        self._lasts = array("Q")  # the number of each run's last message
        self._senders = array("Q")
        # The ends of the frames in the segment that was cut last: most often it is sent to all its senders in a row.
        self._cut = b""
        self._ends = [0]

    def add(self, last: int, sender: int) -> None:
        """Record the sender of the next messages, up to number ``last``."""
        if self._senders and self._senders[-1] == sender:
            self._lasts[-1] = last
        else:
            self._lasts.append(last)
            self._senders.append(sender)

    def trim(self, first: int) -> None:
        """Forget the senders of the messages before number ``first``."""
        gone = bisect.bisect_left(self._lasts, first)
        del self._lasts[:gone]
        del self._senders[:gone]
        self._cut, self._ends = b"", [0]

    def leave_out(self, sender: int, segment: bytes, first: int, last: int) -> bytes:
        """Return a segment, in an encoding that has frames, without the messages of a sender.

        The segment has the messages from number ``first`` to ``last``.
        """
        runs = list(self._runs_of(sender, first, last))
        if not runs:
            return segment
        if self._cut is not segment:
            self._cut, self._ends = segment, [0, *frame_ends(segment)]
        view, ends = memoryview(segment), self._ends
        others = []
        at = 0
        for begin, end in runs:
            others.append(view[at : ends[begin - first]])
            at = ends[end - first]
        others.append(view[at:])
        return b"".join(others)

    def count(self, sender: int, first: int, last: int) -> int:
        """Return the number of messages by a sender from number ``first`` to ``last``."""
        return sum(end - begin for begin, end in self._runs_of(sender, first, last))

    def _runs_of(self, sender: int, first: int, last: int) -> Iterator[tuple[int, int]]:
        """Yield a sender's runs within these messages: the number of the first, and the one after the last."""
        lasts, senders = self._lasts, self._senders
        place = bisect.bisect_left(lasts, first)
        stop = bisect.bisect_left(lasts, last) + 1
        for _ in range(senders[place:stop].count(sender)):
            place = senders.index(sender, place, stop)
            begin = lasts[place - 1] + 1 if place else first
            yield max(first, begin), min(last, lasts[place]) + 1
            place += 1
