"""A rate limit: a token bucket, whose caller brings the time."""

from __future__ import annotations


class TokenBucket:
    """Lets so many things through in a second, and as many at once after a rest."""

    __slots__ = ("_at", "_credit", "_per_s")

    def __init__(self, per_s: float, now: float) -> None:
        self._per_s = per_s
        self._credit = max(per_s, 1.0)
        self._at = now

    def take(self, count: int, now: float) -> float:
        """Count things that have come, and return for how many seconds no more should; 0 if it is not too many yet."""
        self._fill(now)
        self._credit -= count
        return max(0.0, -self._credit / self._per_s)

    def credit(self, now: float) -> float:
        """Return how many would be let through now; less than nothing, if too many were."""
        self._fill(now)
        return self._credit

    def try_take(self, now: float) -> float:
        """Let one thing through and return 0; or return after how many seconds it would be let through."""
        self._fill(now)
        if self._credit < 1:
            return (1 - self._credit) / self._per_s
        self._credit -= 1
        return 0.0

    def is_full(self, now: float) -> bool:
        """Whether it is as if nothing had ever come."""
        self._fill(now)
        return self._credit >= max(self._per_s, 1.0)

    def _fill(self, now: float) -> None:
        self._credit = min(max(self._per_s, 1.0), self._credit + (now - self._at) * self._per_s)
        self._at = now
