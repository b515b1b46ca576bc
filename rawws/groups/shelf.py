"""The messages that a group is about to give out, as they are read from the store, in threads."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from functools import partial
from typing import NamedTuple

import trio

from rawws.limits import MIB
from rawws.store.engine import Engine
from rawws.store.entries import Page, Record
from rawws.wire.frames import Opcode, whole_messages

# Read in one go. A page has one record at least, however large that is.
PAGE_MESSAGES, PAGE_BYTES = 500, MIB
# Beyond this, messages that are not needed at once are forgotten, and read again when they are.
MAX_KEPT_BYTES = 2 * MIB
# The memory of a message besides its payload (measured).
MESSAGE_BYTES = 260


class StoredMessage(NamedTuple):
    """A message of a room."""

    opcode: Opcode
    payload: bytes


class Stretch(NamedTuple):
    """Consecutive messages with one key, or lost ones."""

    first: int
    messages: int
    key: str | None
    is_lost: bool


class Shelf:
    """The messages of one room for one group."""

    def __init__(self, engine: Engine, path: str, epoch: str = "") -> None:
        self._engine = engine
        self._path = path
        self.epoch = epoch  # of the room's ids; empty until the first message is stored
        self._messages: dict[int, StoredMessage] = {}
        self._bytes = 0

    @property
    def held_bytes(self) -> int:
        """The bytes of memory of the messages."""
        return self._bytes

    async def read_on(self, after: int) -> list[Stretch]:
        """Read messages after a number, and return what there is. Raises `StoreError`."""
        page = await self._read(after, PAGE_MESSAGES, PAGE_BYTES)
        if page is None:
            return []
        for record in page.records:
            self._keep(record, after)
        return [stretch for record in page.records if (stretch := _stretch(record, after)) is not None]

    async def keys(self, numbers: Sequence[int]) -> dict[int, str]:
        """Return the keys of those messages that have one. Raises `StoreError`."""
        wanted, found = set(numbers), dict[int, str]()
        after = min(numbers, default=1) - 1
        while wanted and after < max(wanted):
            page = await self._read(after, PAGE_MESSAGES, PAGE_BYTES)
            if page is None or not page.records:
                break
            for record in page.records:
                of_record = wanted.intersection(range(record.first, record.last + 1))
                wanted -= of_record
                if record.key is not None:
                    found.update(dict.fromkeys(of_record, record.key))
            # Pages without any of them are not read.
            after = max(page.records[-1].last, min(wanted, default=1) - 1)
        return found

    async def get(self, numbers: Sequence[int]) -> dict[int, StoredMessage | None]:
        """Return messages by number, None for those that are lost, and keep them no longer. Raises `StoreError`."""
        kept = self._messages
        missing = {number for number in numbers if number not in kept}
        for number in sorted(missing):
            if number not in kept and (page := await self._read(number - 1, 1, 1)) is not None:
                for record in page.records:
                    self._keep(record, number - 1, missing)
        found = {number: kept.pop(number, None) for number in numbers}
        self._bytes -= sum(MESSAGE_BYTES + len(message.payload) for message in found.values() if message is not None)
        return found

    def put_back(self, number: int, message: StoredMessage) -> None:
        """Keep a message again, which is given out later."""
        if number not in self._messages:
            self._messages[number] = message
            self._bytes += MESSAGE_BYTES + len(message.payload)

    def trim(self) -> None:
        """Forget the messages if they are many. This is for the moment when none is needed at once."""
        if self._bytes > MAX_KEPT_BYTES:
            self._messages.clear()
            self._bytes = 0

    def _keep(self, record: Record, after: int, only: Collection[int] | None = None) -> None:
        if record.frames is None:
            return
        for number, (opcode, payload) in enumerate(whole_messages(record.frames), record.first):
            if number > after and (only is None or number in only):
                self.put_back(number, StoredMessage(opcode, payload))

    async def _read(self, after: int, most_messages: int, most_bytes: int) -> Page | None:
        read = partial(self._engine.read, self._path, after, most_messages, most_bytes)
        page = await trio.to_thread.run_sync(read)
        if page is None or self.epoch not in ("", page.tail.epoch):
            return None  # the room has begun again: none of its messages is one of those that the group knows
        self.epoch = page.tail.epoch
        return page


def _stretch(record: Record, after: int) -> Stretch | None:
    """Return what is offered of a record, which may begin before the wanted messages."""
    first = max(record.first, after + 1)
    count = record.last - first + 1
    return Stretch(first, count, record.key, record.frames is None) if count > 0 else None
