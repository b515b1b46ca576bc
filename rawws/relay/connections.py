"""Connections: all peers that a loop serves, and the only code that closes, drops or watches them.

The loop derives from this, and adds tasks, turns and reading. Nothing here waits, so each method is done before any
other task runs.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import trio

from rawws import logs
from rawws.errors import SHUTTING_DOWN, Cause
from rawws.net.connection_errors import EXHAUSTED, describe_loss
from rawws.net.poller import READABLE, WRITABLE
from rawws.net.transport import Transport
from rawws.relay.calls import Calls
from rawws.relay.encoding_jobs import EncodingJobs
from rawws.relay.ends import log_end
from rawws.relay.from_threads import FromThreads
from rawws.relay.leases import LIFETIME, Leases
from rawws.relay.memory import Memory, unsent
from rawws.relay.peer import Loss, Peer, PeerGroup
from rawws.relay.presence import Presence
from rawws.relay.ready_sockets import ReadySockets
from rawws.relay.room_state import RoomState
from rawws.relay.sending import MAX_OUTBOX_BYTES, Sending
from rawws.relay.slow_peers import SlowPeers
from rawws.relay.stats import Stats
from rawws.relay.thread_queue import MAX_WAITING_BYTES, SHARE_OF_MEMORY
from rawws.relay.timers import Timers
from rawws.wire.session import Session, State

# Our close waits at most this long for a program to answer earlier messages. Most programs answer at once, or never.
LAST_ANSWERS_S = 1.0

OUR_ERROR = "dropped because of an error in rawws"

OPEN = State.OPEN  # a global is found three times as fast as an Enum's member


class Connections:
    """The peers of a loop, with the parts that serve them: sending, timers, the memory bound, and presence.

    It is the `PeerControl` of those parts. Any task may have a peer join, leave or close, but only between two turns.
    """

    def __init__(self) -> None:
        self.numbers = itertools.count(1)  # for connections, as the log names them
        # Provisional numbers, below zero, for connections that may turn out to be the page's.
        self.provisional_numbers = itertools.count(-1, -1)
        self.peers: dict[int, Peer] = {}  # by descriptor
        self.sockets = ReadySockets()
        self._idle = trio.lowlevel.ParkingLot()  # where a task waits for deferred work
        self.stats = Stats()
        self.encoding_jobs = EncodingJobs(self.schedule_deferred_work)
        self.slow = SlowPeers(self, self.stats)
        self.sending = Sending(self, self.encoding_jobs, self.slow, self.stats)
        self.presence = Presence()
        self.calls = Calls(self.schedule_deferred_work)
        self.timers = Timers(self.peers, self.stats)
        self.memory = Memory(self.peers, self.timers.aging)
        self.leases = Leases(self.peers, self.close)
        # Each ends those of its connections, in no room, whose grant no longer lets them in; it returns their number.
        self.regrants: list[Callable[[], int]] = []
        self.from_threads = FromThreads(self.sending, self.schedule_deferred_work)
        self.memory.extra_usage.add(self.from_threads.held_bytes)

    @property
    def peer_count(self) -> int:
        return len(self.peers)

    # Joining

    def add(self, peer: Peer) -> None:
        """Take over a peer and its transport. Raises OSError when it can't be watched, and then changes nothing."""
        fd = peer.transport.fileno()
        self.sockets.add(fd)
        self.peers[fd] = peer
        peer.endpoint.peer_count += 1
        self.timers.add(peer)
        if (lifetime_s := peer.endpoint.limits.max_lifetime_s) != math.inf:
            self.leases.add(peer, trio.current_time() + lifetime_s, LIFETIME)
        self._read_on_soon(peer)

    def join(self, peer: Peer, room: RoomState, after: int | None = None, *, watches: bool = False) -> bool:
        """Put a peer into a room: from now on it gets the messages there. Return whether it is there afterwards.

        With ``after`` it first gets the messages after that number in the room's log. With ``watches`` it is
        notified of the other peers that join and leave. A peer that has gone, is lost, or is being closed, can't join.
        """
        if room in peer.rooms:
            return True
        if peer.transport.fileno() < 0 or peer.lost or peer.session.state is not OPEN:
            return False
        peer.rooms = (*peer.rooms, room) if peer.rooms else room.as_tuple
        if room.admit(peer, watches=watches):
            self.notify_watchers_soon(room)
        if after is not None and after < room.log.last_message and self.sending.replay(peer, room, after):
            pass
        elif peer.is_lagging:
            peer.lag_from_tail(room)
        elif peer.is_blocked or peer.is_fragmenting:
            self.sending.start_lagging(peer)
        return room in peer.rooms  # sending may have ended it

    # Watching

    def watch(self, peer: Peer, *, done: bool) -> None:
        """Have the poller report when a peer can be read from and, unless all is ``done``, written to."""
        inbox = peer.inbox
        is_slow = peer.unanswered_bytes > MAX_OUTBOX_BYTES or (inbox is not None and inbox.paused)
        reads = (
            (not is_slow or peer.lost is not None)  # a lost peer takes no answers, and nothing waits for its program
            and peer.held_back is None
            and not (peer.flow is not None and peer.flow.read_paused_until and peer.session.state is OPEN)
        )
        interest = READABLE if reads else 0
        if not done:
            interest |= WRITABLE
        if interest != peer.interest or peer.transport.reads_first:
            begins_to_read = interest & ~peer.interest & READABLE
            peer.interest = interest
            self._poll(peer)
            if begins_to_read:
                self._read_on_soon(peer)

    def _poll(self, peer: Peer) -> None:
        """Update what the poller watches for a peer. While TLS has to read first, a writable socket is of no use."""
        if peer.lost:
            return
        interest = peer.interest & READABLE if peer.transport.reads_first else peer.interest
        self.sockets.watch(peer.transport.fileno(), interest)

    def resume(self, peer: Peer) -> None:
        """Read again from a peer whose inbox was full."""
        assert peer.inbox is not None
        peer.inbox.paused = False
        peer.seen_since_ping = True  # nothing was read from it
        if peer.transport.fileno() >= 0:
            self.watch(peer, done=not peer.is_blocked)

    def _read_on_soon(self, peer: Peer) -> None:
        """Schedule the next read of a peer whose bytes no poller reports, and send the answers of TLS."""
        if peer.lost:
            self._read_to_the_end_soon(peer)
            return
        if peer.transport.needs_flush:
            peer.transport.needs_flush = False
            self.sending.flush(peer)
            if peer.transport.fileno() < 0:
                return
            self._poll(peer)
        is_here = peer.session.unread or peer.transport.has_pending or peer.deferred_frames is not None
        if is_here and peer.interest & READABLE:
            self.sockets.add_unread(peer.transport.fileno())
            self.schedule_deferred_work()

    def _read_to_the_end_soon(self, peer: Peer) -> None:
        """Schedule the next read from a lost peer, unless it may not be read for now."""
        if peer.transport.fileno() >= 0 and peer.interest & READABLE:
            self.sockets.add_unread(peer.transport.fileno())
            self.schedule_deferred_work()

    def schedule_deferred_work(self) -> None:
        """Wake the task that does the work which no poller reports."""
        if self._idle:
            self._idle.unpark()

    def notify_watchers_soon(self, room: RoomState) -> None:
        """Notify a room's watchers of joins and leaves after this turn."""
        self.presence.add(room)
        self.schedule_deferred_work()

    def limit_memory(self, max_bytes: float) -> None:
        """Bound the memory of all peers, rooms and requests, in bytes; ``math.inf`` is no bound."""
        self.memory.max_bytes = max_bytes
        self.from_threads.queue.max_bytes = min(MAX_WAITING_BYTES, max_bytes * SHARE_OF_MEMORY)
        self.timers.watch_memory(is_bounded=max_bytes != math.inf)

    # Closing

    def close(
        self, peer: Peer, code: int, reason: str, cause: Cause = Cause.OUR_CLOSE, *, with_the_rest: bool = True
    ) -> None:
        """Start the closing handshake. This has no effect if it has started already, or the peer is gone.

        Our close goes out after the messages that the peer's rooms have published so far; without ``with_the_rest``, at
        the next frame boundary.
        """
        if peer.transport.fileno() < 0:
            return
        if peer.session.state is not OPEN:
            if peer.inbox is not None and peer.inbox.deferred_close is not None:
                self.send_deferred_close(peer)
            return
        if peer.lost and not peer.interest & READABLE:
            self.drop(peer, cause, peer.lost.why)
            return
        if peer.inbox is not None:
            peer.inbox.flush()
            if peer.session.state is not OPEN or peer.transport.fileno() < 0:
                return
        peer.session.close(code, reason)
        peer.cause = cause
        if peer.inbox is not None and peer.inbox.paused:
            self.resume(peer)
        self._leave(peer, peer.session.data_to_send(), with_the_rest=with_the_rest)

    def _defer_close(self, peer: Peer, last_frames: bytes) -> bool:
        """Defer our close while the program has earlier messages to answer (§5.5.1); return whether it is deferred."""
        inbox = peer.inbox
        if inbox is None or peer.cause is not None or peer.lost:
            return False
        if inbox.deferred_close is None:
            if not inbox.items:
                return False
            inbox.deferred_close = b""
            peer.close_at = trio.current_time() + LAST_ANSWERS_S
        inbox.deferred_close += last_frames
        return True

    def send_deferred_close(self, peer: Peer) -> None:
        """Send the close that was deferred."""
        assert peer.inbox is not None
        last_frames, peer.inbox.deferred_close = peer.inbox.deferred_close, None
        peer.close_at = math.inf
        self._leave(peer, last_frames or b"", with_the_rest=False)

    def leave_room(self, peer: Peer, room: RoomState) -> None:
        """Take a peer out of a room. Earlier messages are still sent to it."""
        room.forget_joining(peer)
        if room not in peer.rooms:
            return
        peer.leave(room)
        if room.remove(peer):
            self.notify_watchers_soon(room)
        if room.is_held:
            self.slow.unblock_if_caught_up(room)
        if peer.awaits_encoding:  # its socket isn't full, so no poller will report that the rest can be sent
            self.sending.flush(peer)

    def _leave(self, peer: Peer, last_frames: bytes, *, with_the_rest: bool) -> None:
        """Take a peer out of its rooms, and send it our last frames."""
        peer.queue_rest(peer.rooms, whole=with_the_rest and not peer.is_fragmenting)
        self.slow.forget(peer)
        self._forget_rooms(peer)
        if last_frames:
            peer.session.show_sent(last_frames)
            peer.queue(last_frames)
        peer.close_at = min(peer.close_at, trio.current_time() + peer.endpoint.limits.close_timeout_s)
        if peer.session.is_closed:
            peer.end(Cause.OUR_CLOSE)
        self.sending.flush(peer)

    def _forget_rooms(self, peer: Peer) -> None:
        for room in peer.forget_rooms():
            if room.remove(peer):
                self.notify_watchers_soon(room)
            if room.is_held:
                self.slow.unblock_if_caught_up(room)

    def lose(self, peer: Peer, error: OSError) -> None:
        """Give up a peer whose socket takes nothing more. The bytes that it sent earlier are still read.

        A peer that refuses our data says why in its close, and then resets the connection. When we are sending, we see
        the reset first, while the close, or a last message, is still in our socket's buffer. The peer leaves its rooms
        at once, but its messages are still published. A peer that is held back, or over its rate, is read later, unless
        that takes longer than ``close_timeout``.
        """
        if peer.lost or peer.transport.fileno() < 0:
            return
        if error.errno in EXHAUSTED:  # resources of ours: the connection itself is intact, and might never end
            self.drop(peer, Cause.RESET, describe_loss(error))
        else:
            self._lose(peer, describe_loss(error))

    def _lose(self, peer: Peer, why: str) -> None:
        peer.lost = Loss(why, unsent(peer))
        self.sockets.remove(peer.transport.fileno())  # it would report the loss for ever
        # On a Unix socket, a peer may refuse all our data and go on sending itself.
        peer.close_at = min(peer.close_at, trio.current_time() + peer.endpoint.limits.close_timeout_s)
        self._forget_rooms(peer)
        self.watch(peer, done=True)
        self._read_to_the_end_soon(peer)

    def drop(self, peer: Peer, cause: Cause, why: str) -> None:
        """Close a peer's socket, whatever the state of the connection. Harmless when it was dropped before."""
        fd = peer.transport.fileno()
        if fd < 0:
            return
        unsent_bytes = peer.lost.unsent_bytes if peer.lost else unsent(peer)
        self.slow.forget(peer)
        self._forget_rooms(peer)
        del self.peers[fd]
        if not peer.lost:
            self.sockets.remove(fd)
        peer.transport.close()
        peer.discard()
        peer.endpoint.on_peer_gone(peer.number)
        if peer.drained is not None:
            peer.drained.unpark_all()
        if peer.inbox is not None:
            self.memory.adopt(peer.inbox)
        addition = why if peer.closed is not None else ""
        closed = peer.end(cause, why)
        self.stats.ends[closed.cause] += 1
        log_end(peer, closed, addition, unsent_bytes)

    def abort_after_bug(self, peer: Peer) -> None:
        """Drop a peer while an exception of ours is being handled. The other peers are served as before."""
        logs.hub.exception("#%d ! an error in rawws itself; the connection is dropped", peer.number)
        self.drop(peer, Cause.ERROR, OUR_ERROR)

    def abort_room_after_bug(self, room: RoomState) -> None:
        """Drop all peers of a room while an exception in a broadcast is being handled.

        It isn't known how much of the segment each of them was sent, so none of them can be sent another.
        """
        message = "#%d ! an error in rawws itself; all connections in room %s are dropped"
        logs.hub.exception(message, logs.SERVER, room.path)
        for peer in room.peers:
            self.drop(peer, Cause.ERROR, OUR_ERROR)

    def forget(self, transport: Transport) -> None:
        """Close a transport after a failure in rawws itself, and drop the peer that it may belong to by now."""
        peer = self.peers.get(transport.fileno())
        if peer is not None:
            self.drop(peer, Cause.ERROR, OUR_ERROR)
        transport.close()

    # All of an endpoint

    def peers_of(self, endpoint: PeerGroup) -> list[Peer]:
        """Return the peers of one endpoint."""
        return [peer for peer in self.peers.values() if peer.endpoint is endpoint]

    def show_frames(self, endpoint: PeerGroup) -> None:
        """Have every peer of an endpoint show its frames to the log and the tracers, as far as they want them now."""
        for peer in self.peers_of(endpoint):
            if isinstance(peer.session, Session):
                endpoint.show_frames(peer.number, peer.session)

    def drop_all(self, endpoint: PeerGroup) -> None:
        """Cut off every peer of an endpoint at once. A peer whose socket takes it is sent a close."""
        for peer in self.peers_of(endpoint):
            self.close(peer, 1001, SHUTTING_DOWN, Cause.SHUTDOWN, with_the_rest=False)
            self.drop(peer, Cause.SHUTDOWN, "cut off, since the server stops")
