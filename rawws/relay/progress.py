"""The progress of a peer's writer: what one flush has sent, skipped and met with."""

from __future__ import annotations

from typing import NamedTuple


class Skipped(NamedTuple):
    """Messages that a lagging peer never gets: ``messages`` of the ``behind`` that it lacked."""

    messages: int
    behind: int


class Progress(NamedTuple):
    """The result of `PeerWriter.flush`."""

    is_done: bool  # nothing is left to be sent
    is_blocked: bool  # the socket takes no more
    skipped: list[Skipped]
    error: OSError | None = None  # the connection is lost
