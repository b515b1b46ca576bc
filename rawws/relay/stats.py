"""Statistics of a loop, counted by the batch, which costs next to nothing. ``/metrics`` reports them."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from rawws.errors import Cause


@dataclass(slots=True)
class Stats:
    """Counts since the loop started. Messages include the pongs and closes that were sent to one peer alone."""

    messages_in: int = 0
    messages_out: int = 0  # counted once for each peer that is, or will be, sent the message
    messages_skipped: int = 0  # never sent to a peer, because it read too slowly
    bytes_in: int = 0
    bytes_out: int = 0
    turns: int = 0
    turns_s: float = 0.0
    longest_block_s: float = 0.0  # the longest time for which something kept the loop from running
    ends: Counter[Cause] = field(default_factory=Counter)  # of connections
