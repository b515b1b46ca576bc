"""The newest message of each key, which a slow reader of a ticker gets instead of all messages."""

from __future__ import annotations

import json
import math
from collections import OrderedDict

from rawws.limits import KIB
from rawws.wire.frames import Opcode, split_frames

# A peer chooses the keys of what it sends. Beyond this number, the key that was renewed least recently is forgotten.
MAX_KEYS = 10_000
# Larger messages aren't searched for a key: reading JSON of many small arrays takes a hundred times as long as passing
# on a message of that size.
MAX_KEYED_BYTES = 64 * KIB
# The memory of a key's newest message besides the bytes of the two (measured).
KEY_BYTES = 350


class LatestByKey:
    """The newest message of each key, in the order of their numbers.

    A message's key is the value of a member of its JSON, or was given with it. Messages without a key share one, and so
    do those of more than 64 KiB whose key wasn't given.
    """

    def __init__(self, member: str, max_bytes: float = math.inf) -> None:
        """All messages together may take ``max_bytes``; the newest one is kept in any case."""
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
        """Set the key of a message that is added next."""
        self._given[number] = key

    def add(self, first: int, frames: bytes) -> None:
        """Add a run of plain frames, the first of which is message number ``first``."""
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
        """Return the newest messages after a number, in their order, each with its number."""
        found = []
        for entry in reversed(self._newest.values()):
            if entry[0] <= number:
                break
            found.append(entry)
        found.reverse()
        return found


def _size(key: str, frame: bytes) -> int:
    return len(key) + len(frame) + KEY_BYTES
