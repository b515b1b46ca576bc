"""What peers get instead of everything: the newest message of each key, or all messages but their own."""

from __future__ import annotations

import bisect
import json
import math
from array import array
from collections import OrderedDict
from collections.abc import Iterator

from rawws.limits import KIB
from rawws.wire.frames import Opcode, frame_ends, split_frames

# A peer chooses the keys of what it sends; of more than this, those that were not renewed for longest are forgotten.
MAX_KEYS = 10_000
# Larger messages aren't searched for a key: reading JSON of many small arrays takes a hundred times as long as passing
# on a message of that size.
MAX_KEYED_BYTES = 64 * KIB
# What a key's newest message takes beside the bytes of the two (measured).
KEY_BYTES = 350


class NewestByKey:
    """The newest message of each key, in the order of their numbers: what a slow reader of a ticker needs.

    A message's key is the value of a member of its JSON, or was given with it. Those without share one, and so do those
    of more than 64 KiB whose key wasn't given.
    """

    def __init__(self, member: str, max_bytes: float = math.inf) -> None:
        """All together may take ``max_bytes``; the one that came last is kept in any case."""
        self._member = member
        self._max_bytes = max_bytes
        self.held_bytes = 0
        self._newest: OrderedDict[str, tuple[int, bytes]] = OrderedDict()  # key: number, plain frame
        self._given: dict[int, str] = {}  # keys that were given, by the number of the message to come

    def __len__(self) -> int:
        return len(self._newest)

    def clear(self) -> None:
        """Forget all messages."""
        self._newest.clear()
        self.held_bytes = 0

    def give(self, number: int, key: str) -> None:
        """Name the key of a message that is to be added."""
        self._given[number] = key

    def add(self, first: int, frames: bytes) -> None:
        """Take in a run of plain frames, the first of which has that number."""
        newest = self._newest
        for number, (header, payload) in enumerate(split_frames(frames), first):
            key = self._given.pop(number, None)
            if key is None:
                key = self._key_of(Opcode(header.opcode), bytes(payload))
            if key in newest:
                self.held_bytes -= _size(key, newest.pop(key)[1])
            frame = header.raw + bytes(payload)
            newest[key] = (number, frame)
            self.held_bytes += _size(key, frame)
            while len(newest) > MAX_KEYS or (self.held_bytes > self._max_bytes and len(newest) > 1):
                oldest, (_, frame) = newest.popitem(last=False)
                self.held_bytes -= _size(oldest, frame)

    def _key_of(self, opcode: Opcode, payload: bytes) -> str:
        if opcode is Opcode.TEXT and self._member and len(payload) <= MAX_KEYED_BYTES:
            try:
                value = json.loads(payload)[self._member]
            except (ValueError, KeyError, TypeError, RecursionError):
                return ""
            return f"={json.dumps(value)}"
        return ""

    def after(self, number: int) -> list[tuple[int, bytes]]:
        """Return the newest messages behind a number, in their order."""
        found = []
        for entry in reversed(self._newest.values()):
            if entry[0] <= number:
                break
            found.append(entry)
        found.reverse()
        return found


def _size(key: str, frame: bytes) -> int:
    return len(key) + len(frame) + KEY_BYTES


class Senders:
    """Who sent which messages of a log, as runs: in few bytes, since a message may be one byte long."""

    bytes_each = 16  # what a run takes, and a message may be one

    def __init__(self) -> None:
        self._lasts = array("Q")  # the number of each run's last message
        self._senders = array("Q")
        # Where the frames end of the segment that was cut last: most often all its senders are sent it in a row.
        self._cut = b""
        self._ends = [0]

    def add(self, last: int, sender: int) -> None:
        """Note who sent the next messages, up to that number."""
        if self._senders and self._senders[-1] == sender:
            self._lasts[-1] = last
        else:
            self._lasts.append(last)
            self._senders.append(sender)

    def trim(self, first: int) -> None:
        """Messages before this number are gone."""
        gone = bisect.bisect_left(self._lasts, first)
        del self._lasts[:gone]
        del self._senders[:gone]
        self._cut, self._ends = b"", [0]

    def leave_out(self, sender: int, segment: bytes, first: int, last: int) -> bytes:
        """Return a segment, in any form that has frames, without what is by a sender; these are its messages."""
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
        """Return how many of these messages are by a sender."""
        return sum(end - begin for begin, end in self._runs_of(sender, first, last))

    def _runs_of(self, sender: int, first: int, last: int) -> Iterator[tuple[int, int]]:
        """Yield a sender's runs within these messages: the number of the first, and that behind the last."""
        lasts, senders = self._lasts, self._senders
        place = bisect.bisect_left(lasts, first)
        stop = bisect.bisect_left(lasts, last) + 1
        for _ in range(senders[place:stop].count(sender)):
            place = senders.index(sender, place, stop)
            begin = lasts[place - 1] + 1 if place else first
            yield max(first, begin), min(last, lasts[place]) + 1
            place += 1
