"""Gates: the decision about the messages that a peer publishes, where a room doesn't simply take them.

A room without a gate takes every message, and nothing is asked about it.
"""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

from rawws.errors import Cause, CloseFrame


class Passage(NamedTuple):
    """The part of a peer's messages that has passed a gate."""

    frames: list[bytes | bytearray]  # to be published
    stopped: int = 0  # the number of messages that are not
    close: CloseFrame | None = None  # closes the peer, after the published messages
    cause: Cause = Cause.OUR_CLOSE  # of that close


class Gate(Protocol):
    """Decides about the messages that peers publish in a room."""

    def pass_on(self, peer: Any, frames: list[bytes | bytearray]) -> Passage:
        """Return what is published of a peer's messages. This never raises."""


class ReadOnly:
    """Closes each peer that publishes."""

    def __init__(self, reason: str) -> None:
        self._close = CloseFrame(1008, reason)

    def pass_on(self, peer: Any, frames: list[bytes | bytearray]) -> Passage:
        return Passage([], close=self._close)


READ_ONLY = ReadOnly("this room is for reading only")
DEAD_JOBS = ReadOnly("this room has the dead jobs of a group; only the server publishes here")
