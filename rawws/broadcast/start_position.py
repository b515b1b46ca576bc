"""The position at which a reader starts: what it asks for, as far as the log still has it."""

from __future__ import annotations

from typing import NamedTuple

from rawws.broadcast.log import BroadcastLog
from rawws.broadcast.query import RoomQuery


class StartPosition(NamedTuple):
    """The position at which a reader starts: after message ``after``. ``gap`` names the messages missing before it."""

    after: int
    gap: dict[str, str] | None

    @classmethod
    def find(cls, log: BroadcastLog, reading: RoomQuery, now: float) -> StartPosition:
        """Return the position in a log that a reader asks for, or the next one that the log can give."""
        oldest = log.oldest(now)
        if reading.since is not None:
            number = log.ids.number_of(reading.since)
            if number is None or number < oldest - 1:
                return cls(oldest - 1, {"since": str(reading.since), "after": log.label(oldest - 1)})
            if number > log.last_message:  # it has seen messages that we never had, so others may have missed them
                return cls(log.last_message, {"since": str(reading.since), "after": log.tail_id})
            if not log.ids.knows(reading.since):  # the id is of a stream that was lost
                return cls(number, {"since": str(reading.since), "after": log.label(number)})
            if log.is_gap(number + 1):  # messages that are lost, in the midst of the history
                return cls(number + 1, {"since": str(reading.since), "after": log.label(number + 1)})
            return cls(number, None)
        if reading.last is not None:
            return cls(max(oldest - 1, log.last_message - reading.last), None)
        return cls(log.last_message, None)
