"""Messages that identify themselves, and the faults in how they arrive. This module uses no network.

A payload is ``writer:sequence:checksum:padding``. A writer counts from 1, so a reader notices messages that are missing
or doubled. The checksum is of the padding. It is the same for all line ends of a text, since Server-Sent Events have
only one. The number says whether the message is text. If readers get ids, these have to grow, and to mean the same
message to all readers.
"""

from __future__ import annotations

import random
import zlib
from collections import Counter, OrderedDict, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

# The number of a room's messages that are remembered by their ids: more than any reader may lag behind another.
REMEMBERED_IDS = 50_000
# The number of faults that are kept word for word; all are counted.
MOST_TOLD = 40
SMALL_BYTES, MIDDLE_BYTES, LARGE_BYTES = 200, 8 * 1024, 100 * 1024

# Line feeds, carriage returns and more than ASCII: events carry each of these in another way.
_CHARACTERS = "abcdefghijklmnopqrstuvwxyz     0123456789é€\n\r"
_TEXT = "".join(random.Random(1).choices(_CHARACTERS, weights=[10] * 41 + [1] * 4, k=2 * LARGE_BYTES))
_BYTES = random.Random(2).randbytes(2 * LARGE_BYTES)


class Message(NamedTuple):
    """The content of a message: its writer and its number."""

    writer: str
    sequence: int
    payload: bytes
    is_text: bool


def compose(writer: str, sequence: int, chance: random.Random) -> Message:
    """Return a writer's next message: most are small, one in twenty up to 100 KiB, every third binary."""
    is_text = _is_text(sequence)
    most = chance.choices((0, SMALL_BYTES, MIDDLE_BYTES, LARGE_BYTES), weights=(5, 75, 15, 5))[0]
    size = chance.randint(0, most)
    at = chance.randrange(LARGE_BYTES)
    padding = _TEXT[at : at + size].encode() if is_text else _BYTES[at : at + size]
    payload = b"%b:%d:%d:%b" % (writer.encode(), sequence, _checksum(padding, is_text), padding)
    return Message(writer, sequence, payload, is_text)


def _is_text(sequence: int) -> bool:
    return sequence % 3 != 0


def _checksum(padding: bytes, is_text: bool) -> int:
    return zlib.crc32(padding.replace(b"\r\n", b"\n").replace(b"\r", b"\n") if is_text else padding)


def parse(payload: bytes, is_text: bool) -> tuple[str, int] | None:
    """Return the writer and the number of a message; None if it is not as it was written."""
    try:
        writer, sequence, checksum, padding = payload.split(b":", 3)
        known = writer.decode("ascii"), int(sequence)
        return known if _checksum(padding, is_text) == int(checksum) and is_text is _is_text(known[1]) else None
    except ValueError:
        return None


class Faults:
    """Descriptions and counts of all faults."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()  # by kind
        self.messages: list[str] = []

    def __bool__(self) -> bool:
        return bool(self.counts)

    def add(self, kind: str, message: str) -> None:
        self.counts[kind] += 1
        if len(self.messages) < MOST_TOLD:
            self.messages.append(f"{kind}: {message}")


class Follower(Protocol):
    """Somebody who has to get every message of a room."""

    @property
    def has_all(self) -> bool:
        """Whether it has got the last message of every writer."""

    def finish(self) -> None:
        """Report what is missing; no more is to come."""


class Room:
    """The messages that were written in a room, and its readers."""

    def __init__(self, path: str, faults: Faults) -> None:
        self.path = path
        self.faults = faults
        self.written: dict[str, int] = {}  # by writer: the number of the last message, sent or about to be
        self.written_bytes = 0
        self.readers: list[Follower] = []
        self._known: OrderedDict[str, tuple[str, int]] = OrderedDict()  # messages by id

    def next_message(self, writer: str, chance: random.Random) -> Message:
        sequence = self.written[writer] = self.written.get(writer, 0) + 1
        message = compose(writer, sequence, chance)
        self.written_bytes += len(message.payload)
        return message

    def read(self, name: str, way: str) -> Reader:
        """Return a reader that is there from the first message on, and has to get all of them."""
        reader = Reader(name, way, self)
        self.readers.append(reader)
        return reader

    def has_id(self, message_id: str, writer: str, sequence: int) -> bool:
        """Return whether a message has the same id for all readers; the first reader's id counts."""
        known = self._known.setdefault(message_id, (writer, sequence))
        if len(self._known) > REMEMBERED_IDS:
            self._known.popitem(last=False)
        return known == (writer, sequence)


@dataclass(slots=True)
class Progress:
    """The position of a reader in the messages of one writer."""

    last: int = 0
    missing: set[int] = field(default_factory=set)  # before the last one


class Reader:
    """A reader of the messages of a room, over any number of connections."""

    def __init__(self, name: str, way: str, room: Room) -> None:
        self.name = name
        self.way = way
        self.room = room
        self.taken = 0
        self.last_id = ""  # of the last message, or of the place where the reader began
        self._progress: defaultdict[str, Progress] = defaultdict(Progress)

    def take(self, payload: bytes, *, is_text: bool, message_id: str = "") -> tuple[str, int] | None:
        """Check a message against earlier ones. Return its writer and number, if it can be read."""
        self.taken += 1
        known = parse(payload, is_text)
        if known is None:
            kind = "text" if is_text else "binary"
            self.tell("damaged", f"{len(payload)} bytes of {kind} that begin {payload[:60]!r}")
            return None
        self._count(*known, message_id)
        if message_id:
            self._check_id(*known, message_id)
        return known

    def _count(self, writer: str, sequence: int, message_id: str) -> None:
        progress = self._progress[writer]
        at = f" (id {message_id})" if message_id else ""
        if sequence > progress.last:
            progress.missing.update(range(progress.last + 1, sequence))
            progress.last = sequence
        elif sequence in progress.missing:
            progress.missing.discard(sequence)
            self.tell("out of order", f"message {sequence} of {writer}{at} came behind {progress.last}")
        else:
            self.tell("twice", f"message {sequence} of {writer}{at} came again; expected {progress.last + 1}")

    def _check_id(self, writer: str, sequence: int, message_id: str) -> None:
        if self.last_id and _place(message_id) <= _place(self.last_id):
            self.tell("out of order", f"message {sequence} of {writer} has the id {message_id}, behind {self.last_id}")
        if not self.room.has_id(message_id, writer, sequence):
            self.tell("out of order", f"message {sequence} of {writer} has the id {message_id}, which is another's")
        self.last_id = message_id

    def note(self, members: Mapping[str, Any]) -> None:
        """Take a control: the position where the reader begins, and a gap before it."""
        self.last_id = self.last_id or members.get("at", "")
        if "gap" in members:
            self.tell("gap", f"the server reports missing messages: {members['gap']}; the last was {self.last_id}")

    def lacks(self) -> Sequence[str]:
        """Return the missing messages, a line for each writer."""
        lines = []
        for writer, written in self.room.written.items():
            last, missing = self._progress[writer].last, self._progress[writer].missing
            if missing:
                few = ", ".join(map(str, sorted(missing)[:5])) + ", ..." * (len(missing) > 5)
                lines.append(f"{len(missing)} messages of {writer} before {last}: {few}")
            if last < written:
                lines.append(f"messages {last + 1} to {written} of {writer}")
        return lines

    @property
    def has_all(self) -> bool:
        """Return whether it has got the last message of every writer."""
        return all(self._progress[writer].last >= last for writer, last in self.room.written.items())

    def finish(self) -> None:
        """Report the lost messages; no more are to come."""
        for line in self.lacks():
            self.tell("lost", line)

    def tell(self, kind: str, message: str) -> None:
        self.room.faults.add(kind, f"{self.name} ({self.way}) in {self.room.path}: {message}")


def _place(message_id: str) -> tuple[int, int]:
    """Return what orders the ids of a room: they begin with milliseconds, or with the same epoch in hex."""
    beginning, _, sequence = message_id.partition("-")
    return int(beginning, 16), int(sequence)
