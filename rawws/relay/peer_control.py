"""The loop's operations on peers, for modules below the loop, which don't know it."""

from __future__ import annotations

from typing import Protocol

from rawws.errors import Cause
from rawws.relay.peer import Peer
from rawws.relay.room_state import RoomState


class PeerControl(Protocol):
    """The loop, which implements this, is the only one that closes, drops, and talks to the poller."""

    def watch(self, peer: Peer, *, done: bool) -> None:
        """Have the poller report when a peer can be read from, and unless all is ``done``, written to."""

    def close(
        self, peer: Peer, code: int, reason: str, cause: Cause = Cause.OUR_CLOSE, *, with_the_rest: bool = True
    ) -> None:
        """Begin the closing handshake."""

    def lose(self, peer: Peer, error: OSError) -> None:
        """Give up a peer whose socket takes nothing more."""

    def abort_after_bug(self, peer: Peer) -> None:
        """Drop a peer after an exception, which is being handled."""

    def abort_room_after_bug(self, room: RoomState) -> None:
        """Drop all peers of a room after an exception, which is being handled."""

    def schedule_deferred_work(self) -> None:
        """Have queued frames flushed, and steps of long work done, when no socket is ready."""
