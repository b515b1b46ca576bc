"""What makes it safe to publish once more: which message was published under which Idempotency-Key."""

from __future__ import annotations

from collections import OrderedDict
from typing import NamedTuple

# So many keys are known of a room, and each for so long: whoever hears no answer asks again within minutes.
MAX_KEYS = 1000
KEPT_S = 600.0
# The memory of one key besides its characters (measured).
KEY_BYTES = 560


class Repeat(NamedTuple):
    """What was published under a key."""

    number: int  # of the message
    digest: str  # of what it was
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
        """When the last was noted. There has to be one."""
        return next(reversed(self._by_key.values())).noted_at

    def find(self, key: str, now: float) -> Repeat | None:
        """Return what was published under a key, if that is still known."""
        self.expire(now)
        return self._by_key.get(key)

    def note(self, key: str, number: int, digest: str, now: float) -> None:
        """Have a key, which must not be known, stand for a message."""
        self._by_key[key] = Repeat(number, digest, now)
        self.held_bytes += len(key) + KEY_BYTES
        if len(self._by_key) > MAX_KEYS:
            self._forget_oldest()

    def expire(self, now: float) -> None:
        """Forget the keys that are too old."""
        while self._by_key and next(iter(self._by_key.values())).noted_at <= now - KEPT_S:
            self._forget_oldest()

    def _forget_oldest(self) -> None:
        key, _ = self._by_key.popitem(last=False)
        self.held_bytes -= len(key) + KEY_BYTES
