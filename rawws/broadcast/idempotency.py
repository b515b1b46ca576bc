"""Idempotency keys of a room: a client can repeat a request, and the message is published once."""

from __future__ import annotations

from collections import OrderedDict
from typing import NamedTuple

# The number of keys that are kept per room, and for how long. A client without an answer retries within minutes.
MAX_KEYS = 1000
KEPT_S = 600.0
# The memory of one key besides its characters (measured).
KEY_BYTES = 560


class Repeat(NamedTuple):
    """The message that was published under a key."""

    number: int  # of the message
    digest: str  # of its content
    noted_at: float


class Repeats:
    """The keys of one room, the oldest first."""

    __slots__ = ("_by_key", "held_bytes")

    def __init__(self) -> None:
        self._by_key: OrderedDict[str, Repeat] = OrderedDict()
        self.held_bytes = 0

    def __len__(self) -> int:
        return len(self._by_key)

    @property
    def newest_at(self) -> float:
        """The time of the latest key. There must be one."""
        return next(reversed(self._by_key.values())).noted_at

    def find(self, key: str, now: float) -> Repeat | None:
        """Return the message that was published under a key, if the key is still known."""
        self.expire(now)
        return self._by_key.get(key)

    def note(self, key: str, number: int, digest: str, now: float) -> None:
        """Record the message that was published under a key. The key must not be known."""
        self._by_key[key] = Repeat(number, digest, now)
        self.held_bytes += len(key) + KEY_BYTES
        if len(self._by_key) > MAX_KEYS:
            self._forget_oldest()

    def expire(self, now: float) -> None:
        """Forget keys that are too old."""
        while self._by_key and next(iter(self._by_key.values())).noted_at <= now - KEPT_S:
            self._forget_oldest()

    def _forget_oldest(self) -> None:
        key, _ = self._by_key.popitem(last=False)
        self.held_bytes -= len(key) + KEY_BYTES
