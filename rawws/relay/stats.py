"""Statistics of a loop, counted by the batch, which costs next to nothing. ``/metrics`` reports them."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from rawws.errors import Cause


@dataclass(slots=True)
class Traffic:
    """Since the loop began. Among the messages that were sent to one peer alone are pongs and closes."""

    messages_in: int = 0
    messages_out: int = 0  # once for each peer that they are sent to, or will be
    messages_skipped: int = 0  # that slow peers did not get
    bytes_in: int = 0
    bytes_out: int = 0
    turns: int = 0
    turns_s: float = 0.0
    longest_block_s: float = 0.0  # that something in the process kept all else waiting
    ends: Counter[Cause] = field(default_factory=Counter)  # of connections
