"""The polls that wait for a message: the only readers of a room that are none of its members."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from rawws.errors import Refusal
from rawws.net.accept import Address
from rawws.relay.polling import Poller


@dataclass(slots=True, eq=False)
class WaitingPoll:
    """A poll that waits, and the facts about its client."""

    number: int  # the connection's, as in the log
    room: str
    user: object
    remote_address: Address
    since: int  # the time at which it began to wait, in Unix seconds
    poller: Poller
    refusal: Refusal | None = None  # the answer to it, if it has been ended

    def end(self, reason: str) -> None:
        """Have it answered with 403 now."""
        sentence = f"This poll was ended by the server: {reason}." if reason else "This poll was ended by the server."
        self.refusal = Refusal(403, "disconnected", sentence)
        self.poller.wake()


class WaitingPolls:
    """All polls of a hub that wait, by the numbers of their connections."""

    def __init__(self) -> None:
        self._waiting: dict[int, WaitingPoll] = {}

    def __iter__(self) -> Iterator[WaitingPoll]:
        """Iterate over those that wait now."""
        return iter(list(self._waiting.values()))

    @contextmanager
    def waiting(self, poll: WaitingPoll) -> Iterator[WaitingPoll]:
        """List a poll during the block. A connection has one request at a time."""
        self._waiting[poll.number] = poll
        try:
            yield poll
        finally:
            del self._waiting[poll.number]
