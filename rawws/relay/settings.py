"""The settings of a room: its history, and its treatment of peers."""

from __future__ import annotations

import contextlib
import enum
from dataclasses import dataclass, field

from rawws.broadcast.log import History
from rawws.errors import UsageError
from rawws.limits import MAX_LAG_BYTES, check_number
from rawws.relay.lag_policies import LagPolicy, choose_policy


class Slow(enum.Enum):
    """The policies for a peer that reads too slowly."""

    CLOSE = "close"  # the peer is closed with 1013
    SKIP = "skip"  # it skips to the newest message, and learns how many it missed if its encoding has controls
    LATEST = "latest"  # when it can take more, it gets the newest message of each key that it missed
    WAIT = "wait"  # publishers wait until it has caught up, so that no message is lost


@dataclass(frozen=True, slots=True)
class RoomSettings:
    """The history that a room keeps, and its treatment of peers. Sizes are in bytes, times in seconds."""

    history: History = field(default_factory=History)  # the messages that it keeps for later readers
    max_lag_bytes: int = MAX_LAG_BYTES  # bytes that it keeps for a peer that lags
    slow: Slow | str = Slow.CLOSE  # the policy for a peer that lags by more than ``max_lag_bytes``
    key: str | None = None  # the JSON member that holds a message's key, for `Slow.LATEST`
    exclude_sender: bool = False  # a message goes to all others
    read_only: bool = False  # a peer that sends a message is closed with 1008; programs and POST requests publish
    max_peers: float | None = None  # further ones are refused with 503; None and infinity are no limit

    def __post_init__(self) -> None:
        """Raises `UsageError` for invalid values, and for settings that exclude each other."""
        self.policy.check(exclude_sender=self.exclude_sender)
        with contextlib.suppress(ValueError):
            object.__setattr__(self, "slow", Slow(self.slow))
        if not isinstance(self.history, History):
            raise UsageError(f"history can't be {self.history!r}; give a rawws.History, such as History(messages=100)")
        check_number("history", self.history.messages)
        check_number("history_bytes", self.history.max_bytes)
        check_number("history_age_s", self.history.max_age_s, whole=False)
        check_number("max_lag_bytes", self.max_lag_bytes, least=1)
        if self.max_peers is not None:
            check_number("max_peers", self.max_peers, least=1, whole=False)

    @property
    def policy(self) -> type[LagPolicy]:
        """The policy for slow peers."""
        return choose_policy(self.slow.value if isinstance(self.slow, Slow) else self.slow)
