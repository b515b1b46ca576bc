"""Sending: a room's messages to all of its peers, and frames to one peer alone.

The peers that have had all of a room's log are sent the next segment with one ``send()`` each, all of them the same
``bytes``. A peer whose socket takes only part of it lags from then on, and its `rawws.relay.writer.PeerWriter` knows
what it is sent next, whenever the socket can take more.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

import trio

from rawws import tracing
from rawws.broadcast.encodings import PLAIN
from rawws.net.poller import READABLE
from rawws.relay.encoding_jobs import SENT_AT_ONCE_BYTES, WORK, EncodingJobs, Job
from rawws.relay.peer import Peer
from rawws.relay.peer_control import PeerControl
from rawws.relay.room_state import RoomState
from rawws.relay.slow_peers import SlowPeers
from rawws.relay.stats import Stats
from rawws.wire.deflate import STEP_BYTES
from rawws.wire.role import Role
from rawws.wire.session import State

# The bytes of frames for one peer alone that may wait before we stop reading from it. So a peer that asks for echoes or
# pongs faster than it takes them is slowed down to its own speed. A program's messages don't count: `send` waits for
# the peer by itself, and the peer's close may say why it takes no more of a message.
MAX_OUTBOX_BYTES = 64 * 1024


class Sending:
    """Sends to peers, and has the loop watch, close or give up each peer, depending on the outcome."""

    def __init__(self, control: PeerControl, jobs: EncodingJobs, slow: SlowPeers, stats: Stats) -> None:
        self._control = control
        self._encoding_jobs = jobs
        self._slow = slow
        self._stats = stats
        self._queued: list[Peer] = []  # flushed soon

    # To all of a room

    def broadcast(self, room: RoomState) -> tuple[int, int, int]:
        """Seal the messages that were added to a room, and send them to every peer there.

        Returns the number of peers that were sent it at once, that have it queued, and that were lost or closed.
        """
        peers = len(room)
        sent = queued = gone = 0
        try:
            while room.seal():
                self._stats.messages_out += room.log.sealed_messages * len(room)
                sent, queued, lost = self._broadcast_segment(room)
                gone += lost
            return sent, queued, gone
        except Exception:
            self._control.abort_room_after_bug(room)
            return 0, 0, peers

    def notify_gap(self, room: RoomState, gap: Mapping[str, str]) -> None:
        """Send the gap that was just recorded in a room's log to every peer there whose encoding has controls.

        A lagging peer that doesn't read on in the log has no cursor for the gap, and is sent it at once.
        """
        if room.policy.reads_on:
            try:
                self._broadcast_segment(room)
            except Exception:
                self._control.abort_room_after_bug(room)
            return
        for peer in room.peers:
            if peer.session.state is State.OPEN and (words := peer.encoding.encode_control({"gap": gap})):
                if peer.is_fragmenting:
                    peer.queue_whole(words)
                else:
                    self.send(peer, words)

    def _broadcast_segment(self, room: RoomState) -> tuple[int, int, int]:
        """Send the segment that was just sealed to every current peer, and check the peers that lag."""
        number = room.log.next - 1
        gone = len(room)
        jobs, reads_on = self._encoding_jobs, room.policy.reads_on
        short: list[tuple[Peer, bytes, int]] = []  # with the segment, and how much of it was sent
        lost: list[tuple[Peer, OSError]] = []
        later: list[Peer] = []
        most_bytes = SENT_AT_ONCE_BYTES
        for encoding, all_peers in room.current.items():
            peers: Collection[Peer] = all_peers
            # Unless lagging peers read on in the log, none of them can wait for a segment's encoding.
            segment = jobs.get(room, number, encoding) if reads_on else jobs.get_at_once(room, number, encoding)
            if segment is None:
                later += peers
                continue
            if not segment:  # a gap, in an encoding without controls
                continue
            size = len(segment)
            if size * len(peers) > most_bytes and reads_on:
                in_order = list(peers)
                peers = in_order[: max(1, most_bytes // size)]
                later += in_order[len(peers) :]
            most_bytes -= size * len(peers)
            if room.excludes_sender:
                self._send_without_their_own(room, number, peers, segment, short, lost)
                continue
            for peer in peers:
                try:
                    sent = peer.transport.send_now(segment)
                except BlockingIOError:
                    sent = 0
                except OSError as error:
                    lost.append((peer, error))
                    continue
                if sent != size:
                    short.append((peer, segment, sent))
            self._stats.bytes_out += size * len(peers)
            if tracing.frames_are_shown():
                nothing = {peer for peer, _, sent in short if not sent}  # to be shown when the first bytes are sent
                for peer in peers:
                    if peer not in nothing:
                        peer.session.show_sent(segment)
        for peer, segment, sent in short:
            if not room.excludes_sender:
                self._stats.bytes_out -= len(segment) - sent
            peer.record_partial_send(room, number, segment, sent)
            self._control.watch(peer, done=False)
        for peer in later:
            peer.wait_for_encoding(room, number, jobs)
        for peer, loss in lost:
            self._control.lose(peer, loss)
        self._slow.check_all(room)
        room.trim()
        left, lagging = len(room), len(room.lagging)
        return left - lagging, lagging, gone - left

    def _send_without_their_own(
        self,
        room: RoomState,
        number: int,
        peers: Collection[Peer],
        whole: bytes,
        short: list[tuple[Peer, bytes, int]],
        lost: list[tuple[Peer, OSError]],
    ) -> None:
        """Send each peer a segment without the messages that it has published itself."""
        for peer in peers:
            segment = room.leave_out_own(peer, number, whole)
            try:
                sent = peer.transport.send_now(segment) if segment else 0
            except BlockingIOError:
                sent = 0
            except OSError as error:
                lost.append((peer, error))
                continue
            self._stats.bytes_out += sent
            if sent != len(segment):
                short.append((peer, segment, sent))
            if sent:
                peer.session.show_sent(segment)

    # To one peer

    def send(
        self, peer: Peer, frames: bytes, *, show: bool = True, count: Callable[[Peer, int], None] | None = None
    ) -> None:
        """Queue frames for this peer only, and send what can be sent now. Without ``show`` they may be anything.

        ``count`` is one of the peer's methods. It is called with the number of bytes, if some of them wait.
        """
        if show and peer.session.on_frame is not None:
            peer.session.show_sent(frames)
        self._stats.messages_out += 1
        try:
            if peer.put(frames, self._stats):
                return
        except OSError as error:
            self._control.lose(peer, error)
            return
        if count is not None:
            count(peer, len(frames))
        self.flush(peer)

    def send_soon(self, peer: Peer, frames: bytes) -> None:
        """Queue frames for this peer, to send them together with later ones: at once if many wait, else very soon.

        Only for a peer that is in no room: the room's log would overtake the queued frames.
        """
        if peer.session.on_frame is not None:
            peer.session.show_sent(frames)
        self._stats.messages_out += 1
        queued_bytes = peer.queue(frames)
        if queued_bytes == len(frames):  # nothing was queued before
            self._queued.append(peer)
            self._control.schedule_deferred_work()
        if queued_bytes >= MAX_OUTBOX_BYTES and not peer.is_blocked:
            self.flush(peer)

    @property
    def has_queued(self) -> bool:
        """Whether `send_soon` has queued something that has not been flushed."""
        return bool(self._queued)

    def flush_those_queued(self) -> None:
        """Send what `send_soon` has queued."""
        queued, self._queued = self._queued, []
        for peer in queued:
            if peer.can_flush:
                self._flush_or_give_up(peer)

    def echo_large(self, peer: Peer, frames: list[bytes | bytearray]) -> bool:
        """Send large frames back without joining them first; False if that isn't possible now."""
        if peer.encoding is not PLAIN or peer.interest != READABLE or peer.session.on_frame is not None:
            return False
        self._stats.messages_in += 1
        try:
            is_done = peer.put_pieces(frames, self._stats)
        except OSError as error:
            self._control.lose(peer, error)
            return True
        if not is_done:
            self.flush(peer)
        return True

    def flush(self, peer: Peer) -> None:
        """Send as much as the peer's socket takes now, and have it watched for writability if something is left."""
        if peer.transport.fileno() < 0:
            return
        was_lagging, before = peer.is_lagging, self._stats.bytes_out
        progress = peer.flush(self._encoding_jobs, self._stats)
        for messages, behind in progress.skipped:
            self._slow.record_skipped(peer, messages, f"{behind} messages behind")
        if progress.error is not None:
            self._control.lose(peer, progress.error)
            return
        if was_lagging and self._stats.bytes_out != before:
            self._slow.note_progress(peer)
        for room in peer.rooms:
            if room.is_held:
                self._slow.unblock_if_caught_up(room)
        takes_more = not progress.is_blocked
        if progress.is_done and self._is_over(peer):
            takes_more = self._shut_down_write(peer)
        self._control.watch(peer, done=takes_more)
        if takes_more:
            peer.wake_senders()

    def _flush_or_give_up(self, peer: Peer) -> None:
        try:
            self.flush(peer)
        except Exception:
            self._control.abort_after_bug(peer)

    @staticmethod
    def _is_over(peer: Peer) -> bool:
        """Return whether a peer has been sent the last that it gets from us."""
        if peer.write_shut_down or not peer.session.is_closed or peer.rooms:
            return False
        return peer.inbox is None or peer.inbox.deferred_close is None

    @staticmethod
    def _shut_down_write(peer: Peer) -> bool:
        """End the stream to a peer if that is ours to do (§7.1.1); False if the socket takes no more for now."""
        peer.write_shut_down = True
        session = peer.session
        # The server is the first to end the stream; a client does so when it gives up on the server.
        if session.our_role is not Role.SERVER and session.fault is None:
            return True
        peer.transport.shutdown_write()
        return not peer.transport.has_unsent

    # The places of peers in their rooms

    def start_lagging(self, peer: Peer) -> None:
        """Have a peer keep its own place in each of its rooms, since its socket takes nothing right now."""
        peer.start_lagging()
        self._control.watch(peer, done=False)

    def replay(self, peer: Peer, room: RoomState, after: int) -> bool:
        """Send a peer that joins a room the messages after a given one; return False if there are none."""
        if not peer.replay(room, after, trio.current_time()):
            return False
        self.flush(peer)
        return True

    def begin_fragments(self, peer: Peer) -> None:
        """Begin a message in fragments: what its rooms publish waits until `end_fragments`."""
        if peer.begin_fragments():
            self._control.watch(peer, done=True)

    def end_fragments(self, peer: Peer) -> None:
        """End a message in fragments: its last one has been given to `send`."""
        peer.end_fragments()
        self.flush(peer)

    # Segments that take long to encode

    def do_work(self) -> None:
        """Encode for about a millisecond, and send each finished segment to the peers that have waited for it."""
        jobs = self._encoding_jobs
        jobs.allowance = STEP_BYTES
        work = 0
        while jobs.has_work and work < STEP_BYTES:
            job = jobs.next_job()
            try:
                is_made = job.advance()
            except Exception:  # the other rooms have jobs too
                self._finish(job)
                self._control.abort_room_after_bug(job.room)
                continue
            if not is_made:
                work += min(job.work, STEP_BYTES)
                jobs.put_back(job)
                continue
            self._finish(job)
            work += self._resume(job)

    def _finish(self, job: Job) -> None:
        if self._encoding_jobs.finish(job):
            self._slow.unblock(job.room, WORK)

    def _resume(self, job: Job) -> int:
        """Send at most `SENT_AT_ONCE_BYTES` to the peers that have waited, and return how much work that was."""
        stats = self._stats
        before = stats.bytes_out
        until = before + SENT_AT_ONCE_BYTES
        while job.waiting:
            peer, _ = job.waiting.popitem()
            if not peer.awaits_encoding or not peer.is_lagging:
                continue
            if stats.bytes_out >= until and job.room in peer.rooms and job.is_wanted:
                # Its cursor stays: it may have got this segment since, and wait for a later one.
                self._encoding_jobs.wait(peer, job.room, job.number)
                continue
            self._flush_or_give_up(peer)
        return (stats.bytes_out - before) * STEP_BYTES // SENT_AT_ONCE_BYTES
