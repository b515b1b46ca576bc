"""Polls of a room: clients that ask for the messages after a number, and may wait for the next one.

Such a client is not a member of the room. While its poll is in progress, the room keeps the messages for it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

import trio

from rawws.broadcast.log import BroadcastLog
from rawws.broadcast.polled import Polled
from rawws.limits import MIB

# A room is kept for this time after each poll.
BETWEEN_POLLS_S = 60.0

# The most messages and bytes of one response. The client gets more with its next poll.
MAX_POLLED_MESSAGES = 1000
MAX_POLLED_BYTES = MIB

Gap = dict[str, str]


def make_response(log: BroadcastLog, after: int, gap: Gap | None) -> Polled:
    """Return the response to a poll for the messages after a number, or after a gap."""
    at = log.ids.label(after) if gap is None else gap["after"].encode("ascii")
    messages = log.messages(after, most=MAX_POLLED_MESSAGES, most_bytes=MAX_POLLED_BYTES)
    return Polled(messages, at, gap, MAX_POLLED_BYTES)


class Polls:
    """The polls of one room that are in progress, and the last response, which polls from the same position share."""

    __slots__ = ("_after", "_pollers", "_response")

    def __init__(self) -> None:
        self._pollers: set[Poller] = set()
        self._after: tuple[int, Gap | None] | None = None
        self._response: Polled | None = None

    def __bool__(self) -> bool:
        """Whether a poll is in progress."""
        return bool(self._pollers)

    def __len__(self) -> int:
        return len(self._pollers)

    def start(self, poller: Poller) -> None:
        self._pollers.add(poller)

    def end(self, poller: Poller) -> None:
        self._pollers.discard(poller)

    @property
    def lowest(self) -> int:
        """The number of the first segment that a poll in progress still needs. There has to be one."""
        return min(poller.number for poller in self._pollers)

    def response(self, log: BroadcastLog, after: int, gap: Gap | None) -> Polled:
        """Return the response to a poll. It is made once for all polls from one position."""
        if self._response is None or self._after != (after, gap):
            self._after, self._response = (after, gap), make_response(log, after, gap)
        return self._response

    def wake(self) -> None:
        """Wake the clients that wait: a message was published."""
        self._after = self._response = None
        for poller in self._pollers:
            poller.wake()

    def record_gap(self, gap: Gap) -> None:
        """Have the responses of the polls in progress begin with a gap."""
        for poller in self._pollers:
            poller.gap = gap

    def held_bytes(self, is_kept: Callable[[object], bool]) -> int:
        """Return the memory of the response, without the objects for which ``is_kept`` is true."""
        return 0 if self._response is None else sum(map(sys.getsizeof, self._response.objects(is_kept)))


class Poller:
    """A poll in progress, as a context manager: within it, the room keeps every segment from ``number`` on."""

    def __init__(self, polls: Polls, number: int, on_end: Callable[[], None]) -> None:
        """``on_end`` is called when the poll has ended."""
        self.number = number
        self.gap: Gap | None = None  # the messages that turned out to be missing meanwhile
        self._polls = polls
        self._on_end = on_end
        self._event = trio.Event()

    def __enter__(self) -> Poller:
        self._polls.start(self)
        return self

    def __exit__(self, *_: object) -> None:
        self._polls.end(self)
        self._on_end()

    def wake(self) -> None:
        self._event.set()

    async def wait(self) -> None:
        """Wait until something is published."""
        await self._event.wait()
