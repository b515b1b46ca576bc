"""Idempotency keys of a room: a client can repeat a request, and the message is published once."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from typing import NamedTuple

# The number of keys that are kept per room, and for how long. A client without an answer retries within minutes.
MAX_KEYS = 1000
KEPT_S = 600.0
# The memory of one key besides its characters (measured).
KEY_BYTES = 560
# The part of this that is the key itself: a tuple, and the head of another text.
_TUPLE_BYTES = 120


class IdempotencyKey(NamedTuple):
    """A key as a publisher has sent it, and its owner, if that is known. The same key of another owner is another one.

    Otherwise a publisher would lose a message to the key of another one, and learn that this one has sent the same.
    """

    text: str
    owner: str = ""

    @property
    def owner_digest(self) -> str:
        """A digest of the owner for a store that others may read; empty without an owner."""
        return hashlib.sha256(self.owner.encode("utf-8", "surrogatepass")).hexdigest()[:32] if self.owner else ""

    @property
    def held_bytes(self) -> int:
        """The bytes of memory that it takes."""
        return len(self.text) + len(self.owner) + _TUPLE_BYTES


class Repeat(NamedTuple):
    """The message that was published under a key."""

    number: int  # of the message
    digest: str  # of its content
    noted_at: float


class Repeats:
    """The keys of one room, the oldest first."""

    __slots__ = ("_by_key", "held_bytes")

    def __init__(self) -> None:
        self._by_key: OrderedDict[IdempotencyKey, Repeat] = OrderedDict()
        self.held_bytes = 0

    def __len__(self) -> int:
        return len(self._by_key)

    @property
    def newest_at(self) -> float:
        """The time of the latest key. There must be one."""
        return next(reversed(self._by_key.values())).noted_at

    def find(self, key: IdempotencyKey, now: float) -> Repeat | None:
        """Return the message that was published under a key, if the key is still known."""
        self.expire(now)
        return self._by_key.get(key)

    def note(self, key: IdempotencyKey, number: int, digest: str, now: float) -> None:
        """Record the message that was published under a key. The key must not be known."""
        self._by_key[key] = Repeat(number, digest, now)
        self.held_bytes += key.held_bytes + KEY_BYTES - _TUPLE_BYTES
        if len(self._by_key) > MAX_KEYS:
            self._forget_oldest()

    def expire(self, now: float) -> None:
        """Forget keys that are too old."""
        while self._by_key and next(iter(self._by_key.values())).noted_at <= now - KEPT_S:
            self._forget_oldest()

    def _forget_oldest(self) -> None:
        key, _ = self._by_key.popitem(last=False)
        self.held_bytes -= key.held_bytes + KEY_BYTES - _TUPLE_BYTES
