"""An entry on its way into the store: what it holds until then, and who is told how that went."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TypeAlias

from rawws import logs
from rawws.store.engine import StoreError
from rawws.store.entries import Append, Entry, GroupWrite, Outcome

# The memory of an entry that waits, and of a job in it, besides their texts and frames (measured).
ENTRY_BYTES, JOB_BYTES = 500, 150

Result: TypeAlias = Outcome | StoreError
OnDone: TypeAlias = Callable[[Result], None]


class Waiting:
    """An entry on its way into the store."""

    __slots__ = ("entry", "held_bytes", "on_done")

    def __init__(self, entry: Entry, on_done: OnDone | None, more_bytes: int) -> None:
        self.entry = entry
        self.on_done = on_done
        self.held_bytes = size_of(entry) + more_bytes

    def tell(self, result: Result) -> None:
        """Tell whoever has put it the result."""
        if self.on_done is not None:
            carry_out(partial(self.on_done, result))


def size_of(entry: Entry) -> int:
    """Return the bytes of memory that an entry takes while it waits."""
    match entry:
        case Append():
            texts = len(entry.key or "") + len(entry.digest) + (entry.once.held_bytes if entry.once else 0)
            return ENTRY_BYTES + len(entry.frames) + texts
        case GroupWrite():
            return ENTRY_BYTES + JOB_BYTES * (len(entry.jobs) + len(entry.done))
        case _:
            return ENTRY_BYTES


def carry_out(call: Callable[[], None]) -> None:
    """Call a function after a commit. If it fails, the other entries of the commit have their owners, too."""
    try:
        call()
    except Exception:
        logs.server.exception("#%d ! an error in rawws itself, after a commit", logs.SERVER)
