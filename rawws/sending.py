"""Sending: what is published in a room to all who are in it, and what is for one peer alone.

Those who have had all of a room's log are given the next segment with one ``send()`` each, all of them the same
``bytes``. Who takes but a part of it *falls behind*: from then on it has a cursor in each of its rooms, and is sent
what is there whenever its socket can take more, until it has caught up. What is for one peer alone waits in its
outbox, and goes out between two segments.

A frame is never sent within another: once some of a segment has gone out, the rest of it comes next
(``Peer.in_segment``), and within a message that a program sends in fragments no room has a say (``Peer.in_message``).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING

import trio

from rawws import tracing
from rawws.forms import SENT_AT_ONCE_BYTES
from rawws.lag_policies import Lag
from rawws.peer import Alone, Peer, Piece
from rawws.room_state import RoomState
from rawws.transport import READABLE
from rawws.wire.broadcast_log import RUN_BYTES, Cursor
from rawws.wire.encodings import notice, rest_of_message, without_deflate
from rawws.wire.role import Role
from rawws.wire.session import State

if TYPE_CHECKING:
    from rawws.loop import Loop

# Frames for one peer alone that may wait for it before we stop reading from it: a peer that asks for echoes or
# pongs faster than it takes them is slowed down to its own speed. A program's messages don't count: `send` waits
# for the peer by itself, and the peer's close may say why it takes no more of a message.
MAX_OUTBOX_BYTES = 64 * 1024
# Waiting frames up to this size are joined: an object for each would take twenty times the bytes of a pong.
SMALL_BYTES = 4 * 1024


class Sending:
    """Sends to peers, for the loop."""

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        self._traffic = loop.traffic
        self._queued: list[Peer] = []  # to be flushed soon

    # To all of a room

    def spread(self, room: RoomState) -> tuple[int, int, int]:
        """Seal what was added to a room and send it to every peer there.

        Returns how many were sent it at once, have it queued, and were lost or closed.
        """
        peers = len(room)
        sent = queued = gone = 0
        try:
            while room.seal():
                self._traffic.messages_out += room.log.sealed_messages * len(room)
                sent, queued, lost = self._broadcast(room)
                gone += lost
            return sent, queued, gone
        except Exception:
            self._loop.give_up_all(room)
            return 0, 0, peers

    def spread_gap(self, room: RoomState, gap: Mapping[str, str]) -> None:
        """Send the gap that a room's log just got to every peer there, if its form can tell of one.

        A lagging peer that doesn't read on in the log has no place there, and is sent the gap at once.
        """
        if room.policy.reads_on:
            try:
                self._broadcast(room)
            except Exception:
                self._loop.give_up_all(room)
            return
        for peer in room.peers:
            if peer.session.state is State.OPEN and (words := notice({"gap": gap}, peer.encoding)):
                if peer.in_message:
                    peer.queue_later([words])
                else:
                    self.send(peer, words)

    def _broadcast(self, room: RoomState) -> tuple[int, int, int]:
        """Send the segment just sealed to every peer that has had all before it, and look after those that lag."""
        number = room.log.next - 1
        gone = len(room)
        forms, reads_on = self._loop.forms, room.policy.reads_on
        short: list[tuple[Peer, bytes, int]] = []  # with the segment, and how much of it was sent
        lost: list[tuple[Peer, OSError]] = []
        later: list[Peer] = []
        most_bytes = SENT_AT_ONCE_BYTES
        for form, all_peers in room.current.items():
            peers: Collection[Peer] = all_peers
            # A lagging peer that doesn't read on in the log has no place in a segment, and can't wait for its form.
            segment = forms.get(room, number, form) if reads_on else forms.get_at_once(room, number, form)
            if segment is None:
                later += peers
                continue
            if not segment:  # a gap, of which this form can't tell
                continue
            size = len(segment)
            if size * len(peers) > most_bytes and reads_on:
                in_order = list(peers)
                peers = in_order[: max(1, most_bytes // size)]
                later += in_order[len(peers) :]
            most_bytes -= size * len(peers)
            if room.tells_senders_apart:
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
            self._traffic.bytes_out += size * len(peers)
            if tracing.frames_are_shown():
                nothing = {peer for peer, _, sent in short if not sent}  # to be shown when the first bytes are sent
                for peer in peers:
                    if peer not in nothing:
                        peer.session.show_sent(segment)
        for peer, segment, sent in short:
            if not room.tells_senders_apart:
                self._traffic.bytes_out -= len(segment) - sent
            self.fall_behind(peer)
            self._loop.slow.record_partial_send(peer, room, number, segment, sent)
        for peer in later:
            self._keep_place(peer)
            assert peer.cursors is not None
            peer.cursors[room] = Cursor(number)
            forms.wait(peer, room, number)
        for peer, loss in lost:
            self._loop.lose(peer, loss)
        for peer in list(room.behind):
            if peer.cursors is not None:  # it may have gone since
                self._loop.slow.check(peer, room)
        room.trim()
        left, behind = len(room), len(room.behind)
        return left - behind, behind, gone - left

    def _send_without_their_own(
        self,
        room: RoomState,
        number: int,
        peers: Collection[Peer],
        whole: bytes,
        short: list[tuple[Peer, bytes, int]],
        lost: list[tuple[Peer, OSError]],
    ) -> None:
        """Send each peer a segment without what it has said itself."""
        for peer in peers:
            segment = room.leave_out_own(peer, number, whole)
            try:
                sent = peer.transport.send_now(segment) if segment else 0
            except BlockingIOError:
                sent = 0
            except OSError as error:
                lost.append((peer, error))
                continue
            self._traffic.bytes_out += sent
            if sent != len(segment):
                short.append((peer, segment, sent))
            if sent:
                peer.session.show_sent(segment)

    # To one peer

    def send(self, peer: Peer, frames: bytes, *, show: bool = True) -> None:
        """Queue frames for this peer only, and send what can be sent now. Without ``show`` they may be anything."""
        if show and peer.session.on_frame is not None:
            peer.session.show_sent(frames)
        self._traffic.messages_out += 1
        if peer.interest == READABLE and not peer.outbox:  # nothing waits: most often it all goes at once
            try:
                sent = peer.transport.send_now(frames)
            except BlockingIOError:
                sent = 0
            except OSError as error:
                self._loop.lose(peer, error)
                return
            self._traffic.bytes_out += sent
            if sent == len(frames):
                return
            peer.outbox = [_rest(frames, sent)]
            peer.outbox_bytes = len(frames) - sent
        else:
            self.queue(peer, frames)
        self.flush(peer)

    def send_alone(self, peer: Peer, frames: bytes) -> None:
        """Send a program's message to a peer without an inbox that is caught up with its rooms."""
        if peer.alone is None:
            peer.alone = Alone()
        peer.alone.waiting_bytes += len(frames)
        self.send(peer, frames)
        if not peer.outbox:
            peer.alone.waiting_bytes = 0

    def send_soon(self, peer: Peer, frames: bytes) -> None:
        """Queue frames for this peer, to go out with those that follow: at once when they are many, else very soon.

        For a peer that is in no room, whose log would overtake what waits.
        """
        if peer.session.on_frame is not None:
            peer.session.show_sent(frames)
        self._traffic.messages_out += 1
        if not peer.outbox:
            self._queued.append(peer)
            self._loop.run_errands_soon()
        self.queue(peer, frames)
        if peer.outbox_bytes >= MAX_OUTBOX_BYTES:
            self.flush(peer)

    @property
    def has_queued(self) -> bool:
        """Whether `send_soon` has queued something that nobody has flushed."""
        return bool(self._queued)

    def flush_those_queued(self) -> None:
        """Send what `send_soon` has queued."""
        queued, self._queued = self._queued, []
        for peer in queued:
            if peer.outbox and not peer.is_blocked:
                try:
                    self.flush(peer)
                except Exception:
                    self._loop.give_up(peer)

    def echo_large(self, peer: Peer, frames: list[bytes | bytearray]) -> bool:
        """Send large frames back without joining them first; False if that isn't possible now."""
        if peer.encoding or peer.interest != READABLE or peer.session.on_frame is not None:
            return False
        try:
            sent = peer.transport.try_send_pieces(frames)
        except OSError as error:
            self._loop.lose(peer, error)
            return True
        self._traffic.messages_in += 1
        if sent < sum(map(len, frames)):
            rest = _rest(b"".join(frames), sent)
            peer.outbox = [rest]
            peer.outbox_bytes = len(rest)
            self.flush(peer)
        return True

    def queue(self, peer: Peer, frames: bytes) -> None:
        """Put frames at the end of a peer's outbox. Small ones become part of the piece before them."""
        outbox = peer.outbox
        if not outbox or len(frames) > SMALL_BYTES:
            self.queue_apart(peer, frames)
            return
        tail = outbox[-1]
        if type(tail) is bytearray and len(tail) < RUN_BYTES:
            tail += frames
        elif type(tail) is bytes and len(tail) <= SMALL_BYTES:
            joined = bytearray(tail)
            joined += frames
            outbox[-1] = joined
        else:
            outbox.append(frames)
        peer.outbox_bytes += len(frames)

    @staticmethod
    def queue_apart(peer: Peer, frames: bytes) -> None:
        """Put frames at the end of a peer's outbox as a piece of its own, which can be taken out again."""
        if peer.outbox is None:
            peer.outbox = [frames]
        else:
            peer.outbox.append(frames)
        peer.outbox_bytes += len(frames)

    def flush(self, peer: Peer) -> None:
        """Send what the peer's socket takes now, and watch it for writability if something is left."""
        if peer.transport.fileno() < 0:
            return
        peer.awaits_form = False
        before = self._traffic.bytes_out
        try:
            done = self._send_pending(peer)
        except OSError as error:
            self._loop.lose(peer, error)
            return
        if peer.cursors is not None and self._traffic.bytes_out != before:
            self._loop.slow.note_progress(peer)
        takes_more = done or peer.awaits_form
        if not takes_more:
            self.fall_behind(peer)
        elif done and peer.cursors is not None and not peer.in_message:
            peer.cursors = None
            for room in peer.rooms:
                room.add_current(peer)
                room.trim()
        for room in peer.rooms:
            if room.is_held:
                self._loop.slow.release_publishers(room)
        session = peer.session
        waits = peer.inbox is not None and peer.inbox.last_words is not None
        if done and session.is_closed and not peer.rooms and not peer.shut and not waits:
            peer.shut = True
            # §7.1.1: the server is the first to end the stream; a client does so when it gives up on the server.
            if session.our_role is Role.SERVER or session.fault is not None:
                peer.transport.shutdown_write()
                done = takes_more = not peer.transport.has_unsent
        self._loop.watch(peer, done=takes_more)
        if takes_more:
            peer.wake_senders()

    def _send_pending(self, peer: Peer) -> bool:
        """Send from the outbox and the logs, each at its turn; return False if something is left.

        Then the socket takes no more, or the next form is still being made (``Peer.awaits_form``).
        """
        transport, forms = peer.transport, self._loop.forms
        if transport.has_unsent and not transport.try_flush():
            return False
        while True:
            if peer.outbox and peer.in_segment is None:
                count, waiting = _first_of(peer.outbox)
                sent = transport.try_send(waiting)
                self._traffic.bytes_out += sent
                peer.outbox_bytes -= sent
                if sent < len(waiting):
                    peer.outbox[:count] = [_rest(waiting, sent)]
                    return False
                del peer.outbox[:count]
                if peer.outbox:
                    continue
                peer.outbox = None
                if peer.inbox is not None:
                    peer.inbox.answer_bytes = 0
                if peer.alone is not None:
                    peer.alone.waiting_bytes = 0
            if peer.cursors is None or (peer.in_message and peer.in_segment is None):
                return True
            room = peer.in_segment or self._next_room(peer)
            if room is None:
                return True
            cursor = peer.cursors[room]
            chunk = room.policy.next_chunk(Lag(room.log, cursor, peer.encoding))
            if chunk is not None:
                self._loop.slow.queue_chunk(peer, room, chunk)
                continue
            number, offset = cursor
            segment = forms.get(room, number, peer.encoding)
            if segment is None:
                forms.wait(peer, room, number)
                return False
            if not segment:  # a gap, of which this form can't tell
                peer.cursors[room] = Cursor(number + 1)
                continue
            if (
                not offset
                and number + 1 < room.log.next
                and not transport.has_handshake
                and not room.tells_senders_apart
            ):
                if not self._send_run(peer, room, number):
                    return False
                continue
            segment = room.leave_out_own(peer, number, segment)
            sent = transport.try_send(memoryview(segment)[offset:] if offset else segment)
            self._traffic.bytes_out += sent
            if sent and not offset:
                peer.session.show_sent(segment)
            if offset + sent < len(segment):
                peer.cursors[room] = Cursor(number, offset + sent)
                peer.in_segment = room if offset + sent + transport.committed_bytes > 0 else None
                return False
            peer.cursors[room] = Cursor(number + 1)
            peer.in_segment = None

    def _send_run(self, peer: Peer, room: RoomState, number: int) -> bool:
        """Send several segments that a peer lacks with one system call; False when the socket takes no more."""
        assert peer.cursors is not None
        run, sizes = self._loop.forms.run(room, number, peer.encoding)
        sent = left = peer.transport.try_send(run)
        self._traffic.bytes_out += sent
        for size in sizes:
            if left and peer.session.on_frame is not None:
                peer.session.show_sent(room.log.segment(number, peer.encoding))
            if left < size:
                break
            left -= size
            number += 1
        peer.cursors[room] = Cursor(number, left)
        peer.in_segment = room if left else None
        if left:
            at = sent - left
            room.log.put_back(number, peer.encoding, run[at : at + size])
        return sent == len(run)

    @staticmethod
    def _next_room(peer: Peer) -> RoomState | None:
        """Return a room in which the peer lacks something."""
        assert peer.cursors is not None
        for room, cursor in peer.cursors.items():
            if cursor != room.tail:
                return room
        return None

    # What a peer lacks of its rooms

    def fall_behind(self, peer: Peer) -> None:
        """Have a peer keep its own place in each of its rooms, since it can't be sent things right now."""
        self._keep_place(peer)
        self._loop.watch(peer, done=False)

    @staticmethod
    def _keep_place(peer: Peer) -> None:
        if peer.cursors is None and peer.rooms:
            peer.cursors = {room: room.tail for room in peer.rooms}
            for room in peer.rooms:
                room.add_behind(peer)

    def replay(self, peer: Peer, room: RoomState, after: int) -> bool:
        """Put a peer behind in a room that it joins; false if there is nothing for it."""
        entry = room.log.entry(after, peer.encoding, trio.current_time())
        if not entry.rest and entry.number == room.log.next:
            return False
        if peer.cursors is None:
            peer.cursors = {}
            for other in peer.rooms:
                if other is not room:
                    peer.cursors[other] = other.tail
                    other.add_behind(peer)
        start = room.policy.start(after, entry)
        if start.rest:
            peer.session.show_sent(start.rest)
            if peer.in_message:
                peer.queue_later([start.rest])
            else:
                self.queue(peer, start.rest)
        peer.cursors[room] = start.cursor
        room.add_behind(peer)
        self.flush(peer)
        return True

    def queue_rest(self, peer: Peer, rooms: Sequence[RoomState], *, whole: bool) -> None:
        """Move what a peer lacks of rooms that it leaves into its outbox: all, or what completes a frame."""
        assert peer.cursors is not None
        first: list[Piece] = []
        then: list[Piece] = []
        for room in rooms:
            policy, cursor = room.policy, peer.cursors[room]
            if not policy.reads_on:
                while whole and cursor != room.tail:
                    chunk = policy.next_chunk(Lag(room.log, cursor, peer.encoding))
                    assert chunk is not None
                    then.append(chunk.data)
                    cursor = Cursor(chunk.upto)
                continue
            number, offset = cursor
            if room is peer.in_segment:
                segment = room.segment_for(peer, number)
                if whole:
                    first.append(memoryview(segment)[offset:])
                else:
                    committed_bytes = peer.transport.committed_bytes
                    first.append(rest_of_message(segment, offset, peer.encoding, committed_bytes=committed_bytes))
                number += 1
                peer.in_segment = None
            if whole:
                for missing in range(number, room.log.next):
                    # An uncompressed one is the log's own, or quickly made.
                    plain = room.log.segment(missing, without_deflate(peer.encoding))
                    if segment := room.leave_out_own(peer, missing, plain):
                        peer.session.show_sent(segment)
                        then.append(segment)
        if peer.in_message:
            peer.queue_later(then)
            then = []
        peer.outbox = [*first, *(peer.outbox or ()), *then]
        peer.outbox_bytes = sum(map(len, peer.outbox))

    # A message in fragments

    def hold(self, peer: Peer) -> None:
        """Begin a message in fragments: what its rooms publish waits until `release`."""
        peer.in_message = True
        if peer.cursors is None and peer.rooms:
            self.fall_behind(peer)
            self._loop.watch(peer, done=True)

    def release(self, peer: Peer) -> None:
        """The last fragment of a message has been given to `send`."""
        peer.in_message = False
        if peer.later:
            peer.outbox = [*(peer.outbox or ()), *peer.later]
            peer.outbox_bytes += sum(map(len, peer.later))
            peer.later = None
        self.flush(peer)


def _rest(piece: Piece, sent: int) -> Piece:
    """Return what is left of a piece when some of it has been sent.

    A large rest is a view, which keeps the whole piece in memory; a small one is copied and lets go of it.
    """
    if type(piece) is bytearray:
        del piece[:sent]
        return piece
    return memoryview(piece)[sent:] if len(piece) - sent > SMALL_BYTES else bytearray(memoryview(piece)[sent:])


def _first_of(outbox: Sequence[Piece]) -> tuple[int, Piece]:
    """Return what of an outbox is to be sent first, in one piece, and how many of the outbox's that is.

    Small pieces are joined for one system call. Large ones are sent as they are: they may be others' too.
    """
    count, size = 1, len(outbox[0])
    while count < len(outbox) and size + len(outbox[count]) <= RUN_BYTES:
        size += len(outbox[count])
        count += 1
    return count, outbox[0] if count == 1 else b"".join(outbox[:count])
