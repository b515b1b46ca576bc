"""A rate limit: a token bucket, whose caller passes the time."""

from __future__ import annotations


class TokenBucket:
    """Lets a number of things through per second, and as many at once after a pause."""

    __slots__ = ("_at", "_credit", "_per_s")

    def __init__(self, per_s: float, now: float) -> None:
        self._per_s = per_s
        self._credit = max(per_s, 1.0)
        self._at = now

    def take(self, count: int, now: float) -> float:
        """Count things that have come, and return for how many seconds to accept no more; 0 below the limit."""
        self._fill(now)
        self._credit -= count
        return max(0.0, -self._credit / self._per_s)

    def credit(self, now: float) -> float:
        """Return how many would be let through now; negative if there were too many."""
        self._fill(now)
        return self._credit

    def try_take(self, now: float) -> float:
        """Let one thing through and return 0, or return the number of seconds to wait."""
        self._fill(now)
        if self._credit < 1:
            return (1 - self._credit) / self._per_s
        self._credit -= 1
        return 0.0

    def is_full(self, now: float) -> bool:
        """Whether the bucket is full, as if nothing had come yet."""
        self._fill(now)
        return self._credit >= max(self._per_s, 1.0)

    def _fill(self, now: float) -> None:
        self._credit = min(max(self._per_s, 1.0), self._credit + (now - self._at) * self._per_s)
        self._at = now
