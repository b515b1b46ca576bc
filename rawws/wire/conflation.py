"""What peers get instead of everything: the newest message of each key, or all messages but their own."""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Iterator

from rawws.wire.frames import Opcode, split_frames

# A peer chooses the keys of what it sends; of more than this, those that were not renewed for longest are forgotten.
MAX_KEYS = 10_000


class NewestByKey:
    """The newest message of each key, in the order of their numbers: what a slow reader of a ticker needs.

    A message's key is the value of a member of its JSON, or was given with it. Those without share one.
    """

    def __init__(self, member: str) -> None:
        self._member = member
        self._newest: OrderedDict[str, tuple[int, bytes]] = OrderedDict()  # key: number, plain frame
        self._given: dict[int, str] = {}  # keys that were given, by the number of the message to come

    def __len__(self) -> int:
        return len(self._newest)

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
            newest[key] = (number, header.raw + bytes(payload))
            newest.move_to_end(key)
        while len(newest) > MAX_KEYS:
            newest.popitem(last=False)

    def _key_of(self, opcode: Opcode, payload: bytes) -> str:
        if opcode is Opcode.TEXT and self._member:
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


class Senders:
    """Who sent which messages of a log's segments."""

    def __init__(self) -> None:
        self._open: list[tuple[int, int]] = []  # runs: how many messages, and whose
        self._sealed: dict[int, list[tuple[int, int]]] = {}

    def add(self, count: int, sender: int) -> None:
        """Note the next messages of the open segment."""
        self._open.append((count, sender))

    def seal(self, number: int) -> None:
        self._sealed[number], self._open = self._open, []

    def trim(self, first: int) -> None:
        while self._sealed and (number := next(iter(self._sealed))) < first:
            del self._sealed[number]

    def sent_to(self, number: int, sender: int) -> bool:
        """Say whether a segment has messages of that sender."""
        return any(who == sender for _, who in self._sealed.get(number, ()))

    def others(self, number: int, sender: int, frames: bytes) -> Iterator[tuple[int, bytes]]:
        """Yield the runs of a segment's frames that are not by that sender, each with the place of its first."""
        ends = [0]
        for header, payload in split_frames(frames):
            ends.append(ends[-1] + len(header.raw) + len(payload))
        place = 0
        for count, who in self._sealed.get(number, ()):
            if who != sender:
                yield place, frames[ends[place] : ends[place + count]]
            place += count
