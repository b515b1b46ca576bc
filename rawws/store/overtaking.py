"""The entries that may go before the messages for which a store has no space.

The changes of groups make the store smaller in the end: a message that all groups are done with may be forgotten. So
they must not wait for the messages that came before them. Otherwise a full store would stay full.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from rawws.access.dead_rooms import is_dead_room
from rawws.store.entries import Append, Entry, Keep


def is_growth(entry: Entry) -> bool:
    """Say whether an entry is a message that makes a store larger, and may wait.

    A message about a dead job may not: it is stored together with the change of its group.
    """
    return isinstance(entry, Append) and not is_dead_room(entry.path)


def overtaking(entries: Iterable[Entry]) -> Iterator[bool]:
    """Yield for each entry whether it may go before the messages that wait. All that may stay in their order."""
    for entry in entries:
        yield not is_growth(entry) and not isinstance(entry, Keep)
