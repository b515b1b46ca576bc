"""The broadcast loop: one trio task that serves every WebSocket peer.

A peer has no task of its own. All their sockets are watched by one poller (an epoll or kqueue), the loop waits
for the poller, and each time it wakes it takes one *turn*:

1. Read: one bounded receive from each socket that has something, its frames decoded, each message appended to
   its room's log. Pings are answered, closes noted.
2. Seal: what a room's log gained in this turn becomes one segment.
3. Write: the segment goes to every peer of the room with one ``send()`` each. The many that had caught up are
   given the same ``bytes``; a peer whose kernel buffer is full keeps a cursor and is asked for again when it
   can take more.

There is no checkpoint within a turn, so nothing here needs a lock: a peer joins, leaves or is closed between
turns. Sending is by far the dearest step (a system call a peer), so under load the way to be fast is to let
turns get longer and segments bigger, which happens by itself; a budget on what one turn reads keeps the
segments, and with them the time between two looks at any socket, within bounds.

What a peer is still to be sent has three places, in the order in which they go out at a frame boundary: the
*outbox* (frames for this peer alone: greeting, pong, ping, echo), the log from the peer's cursor on, and a
*farewell* (our close, when it has to wait for the log). Nothing is ever put inside a frame that has partly gone.
"""

from __future__ import annotations

import enum
import logging
import math
import time

import trio

from rawws import logs
from rawws.limits import Limits
from rawws.peer import Upgraded
from rawws.room import Peer, Room
from rawws.transport import LOST, MORE_RECEIVE_BYTES, READABLE, RECEIVE_BYTES, WRITABLE, make_poller
from rawws.wire.broadcast_log import PLAIN, Cursor
from rawws.wire.deflate import Deflaters
from rawws.wire.events import Role
from rawws.wire.frames import Opcode, encode_frame
from rawws.wire.session import Session, State
from rawws.wire.trace import FAULT, STATE, TIMER

# How much one turn reads before it writes: sixteen full receives. More makes segments no cheaper to send (64 KiB
# already costs far more in copying than in the system call) and every peer wait longer for its turn.
TURN_BYTES = 16 * RECEIVE_BYTES

# For so long the loop may keep the thread while there is work, before other tasks (connections in their HTTP
# phase) get their turn. Going through trio costs as much as five messages (40 µs), so not after each turn.
TURNS_S = 0.001

# Frames for one peer alone that may wait for it before we stop reading from it: a peer that asks for echoes or
# pongs faster than it takes them is slowed down to its own speed.
MAX_OUTBOX_BYTES = 64 * 1024

# Deadlines are looked at this often, or more often if they are shorter: a timer per peer costs too much.
TICK_S = 1.0


CLOSED = State.CLOSED  # a global is found three times as fast as an Enum's member


class Mode(enum.Enum):
    BROADCAST = "broadcast"  # each message to all of the room, its sender included
    ECHO = "echo"  # each message to its sender alone


class Hub:
    """All rooms, all peers, and the loop that serves them. Run `run` in one task; call the rest from any."""

    def __init__(self, limits: Limits, *, mode: Mode = Mode.BROADCAST, hello: str = "", fast_lane: bool = True) -> None:
        self._limits = limits
        self._echoes = mode is Mode.ECHO
        self._fast_lane = fast_lane
        self._hello = encode_frame(Opcode.TEXT, hello.encode()) if hello else b""
        self._deflate = Deflaters().deflate_frames
        self._peers: dict[int, Peer] = {}  # by descriptor
        self._rooms: dict[str, Room] = {}
        self._fresh: set[Room] = set()  # whose logs have an open segment
        self._leaving: list[Peer] = []  # whose sessions have ended in this turn
        self._ready: list[tuple[int, int]] = []  # what the poller reported and no turn has looked at yet
        self._stopping = False
        self._empty = trio.Event()
        self._poller = make_poller()

    @property
    def peer_count(self) -> int:
        return len(self._peers)

    @property
    def rooms(self) -> dict[str, Room]:
        """The rooms by path; one exists while a peer is in it. To be looked at only."""
        return self._rooms

    async def run(self) -> None:
        """Serve the peers until cancelled; then every socket that is left is closed at once."""
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._watch_deadlines)
                while True:
                    if self._ready:
                        await trio.lowlevel.checkpoint()
                    else:
                        await trio.lowlevel.wait_readable(self._poller.fileno())
                    self._take_turns()
        finally:
            for peer in list(self._peers.values()):
                self._drop(peer, "cut off, since the server stops")
            trio.lowlevel.notify_closing(self._poller.fileno())
            self._poller.close()

    async def stop(self, drain_s: float) -> None:
        """Close every peer with 1001 and wait for all to be gone, for ``drain_s`` seconds at most.

        What was published before is sent first. Peers that are left afterwards are cut off when `run` is cancelled.
        """
        self._stopping = True
        self._publish()
        for peer in list(self._peers.values()):
            if peer.session.state is State.OPEN:
                self._close(peer, 1001, "the server is shutting down")
        with trio.move_on_after(drain_s):
            while self._peers:
                self._empty = trio.Event()
                await self._empty.wait()

    # Coming

    def adopt(self, upgraded: Upgraded) -> None:
        """Take over a connection whose handshake is complete: greet it, and put it in its path's room.

        The hub owns the transport from here on. Frames that the client sent behind its request are read at once.
        """
        path, agreement = upgraded.handshake.path, upgraded.handshake.deflate
        room = self._rooms.get(path)
        if room is None:
            room = Room(path, self._deflate)
        session = Session(
            Role.SERVER,
            max_message_bytes=self._limits.max_message_bytes,
            deflate=agreement is not None,
            fast_lane=self._fast_lane,
            relays=True,
            on_frame=logs.frame_logger(upgraded.number),
        )
        form = agreement.server_window_bits if agreement is not None and agreement.deflates else PLAIN
        peer = Peer(upgraded.number, upgraded.transport, session, room, form)
        fd = peer.transport.fileno()
        try:
            self._poller.add(fd)
        except OSError as error:
            self._log(peer, FAULT, f"can't be watched: {error.strerror or error}", logging.ERROR)
            peer.transport.close()
            return
        self._peers[fd] = peer
        self._rooms[room.path] = room
        room.add_current(peer)
        peer.ping_at = trio.current_time() + (self._limits.ping_interval_s or math.inf)
        if logs.hub.isEnabledFor(logging.INFO):
            self._log(peer, STATE, f"joined room {room.path} (peers in it: {len(room)})")
        if self._hello:
            self._send_alone(peer, self._hello)
        if upgraded.trailing_data:
            self._act_on(peer, session.relay_data(upgraded.trailing_data))
        self._publish()
        if self._stopping and peer.room is not None and session.state is State.OPEN:
            self._close(peer, 1001, "the server is shutting down")

    # One turn

    def _take_turns(self) -> None:
        """Take turns until no socket is ready, or other tasks have waited for long enough."""
        until = time.perf_counter() + TURNS_S
        while True:
            if not self._ready:
                self._ready = self._poller.poll()
                if not self._ready:
                    return
            self._turn()
            if time.perf_counter() > until:
                return

    def _turn(self) -> None:
        """Look at the sockets that are ready, within the budget, and send what that brought."""
        budget = TURN_BYTES
        peers = self._peers
        ready = iter(self._ready)
        self._ready = []
        for fd, events in ready:
            peer = peers.get(fd)
            if peer is None:
                continue  # dropped since the poller reported it
            try:
                if events & WRITABLE:
                    self._flush(peer)
                if events & (READABLE | LOST):
                    budget -= self._read(peer)
            except Exception:
                # Ours to mend, but not a reason to leave the others without a server.
                logs.hub.exception("#%d ! an error in rawws itself; the connection is dropped", peer.number)
                self._drop(peer, "dropped because of an error in rawws")
            if budget <= 0:
                break
        self._ready = [*ready, *self._ready]  # what is left has its turn first
        if self._fresh or self._leaving:
            self._publish()

    def _read(self, peer: Peer) -> int:
        """Receive once from a peer, act on what came, and return how many bytes that was."""
        try:
            # After a full receive, more is asked for, and much of a large message goes right to its place.
            if peer.receive_bytes != RECEIVE_BYTES and (buffer := peer.session.large_buffer(RECEIVE_BYTES)) is not None:
                return self._read_into(peer, buffer)
            data = peer.transport.receive_now(peer.receive_bytes)
        except BlockingIOError:
            return 0
        except OSError as error:
            self._drop(peer, error.strerror or str(error))
            return 0
        size = len(data)
        if not size:
            self._end_of_stream(peer)
            return 0
        peer.receive_bytes = MORE_RECEIVE_BYTES if size >= RECEIVE_BYTES else RECEIVE_BYTES
        peer.heard = True
        self._act_on(peer, peer.session.relay_data(data))
        if peer.transport.has_pending:
            self._ready.append((peer.transport.fileno(), READABLE))
        return size

    def _read_into(self, peer: Peer, buffer: memoryview) -> int:
        with buffer:
            size = peer.transport.try_receive_into(buffer)
        if size is None:
            return 0
        if not size:
            self._end_of_stream(peer)
            return 0
        peer.heard = True
        self._act_on(peer, peer.session.relay_received(size))
        if peer.transport.has_pending:
            self._ready.append((peer.transport.fileno(), READABLE))
        return size

    def _end_of_stream(self, peer: Peer) -> None:
        self._drop(peer, "" if peer.shut else "the client ended the stream")

    def _act_on(self, peer: Peer, frames: list[bytes | bytearray]) -> None:
        """Publish a peer's messages, and send it what its session has to say."""
        session = peer.session
        answers = session.data_to_send() if session.outgoing else b""
        # §5.5.1: once our close has gone out, what still comes need not be processed.
        if frames and (room := peer.room) is not None and peer.stop_before is None:
            if not self._echoes:
                room.log.append(frames)
                self._fresh.add(room)
            elif type(frames[-1]) is bytearray and not answers and self._echo_large(peer, frames):
                return
            else:
                echo = b"".join(frames)
                answers = (self._deflate(echo, peer.form) if peer.form else echo) + answers
        if session.state is CLOSED:
            if not peer.shut:
                peer.farewell += answers
                self._leaving.append(peer)
        elif answers:
            self._send_alone(peer, answers)

    def _echo_large(self, peer: Peer, frames: list[bytes | bytearray]) -> bool:
        """Send large frames back without joining them first; False if that isn't possible now."""
        if peer.form or peer.interest != READABLE or peer.session.on_frame is not None:
            return False
        try:
            sent = peer.transport.try_send_pieces(frames)
        except OSError as error:
            self._drop(peer, error.strerror or str(error))
            return True
        if sent < sum(map(len, frames)):
            peer.outbox = memoryview(b"".join(frames))[sent:]
            self._flush(peer)
        return True

    def _publish(self) -> None:
        """Seal what was appended and send it; then let those go whose sessions have ended."""
        for room in self._fresh:
            room.log.seal()
            self._broadcast(room)
        self._fresh.clear()
        # Only now, so that a peer that says something and closes in one breath still gets what it said.
        for peer in self._leaving:
            self._leave(peer)
        self._leaving.clear()

    def _broadcast(self, room: Room) -> None:
        """Send the segment just sealed to every peer that has had all before it, and look after those that lag."""
        number = room.log.next - 1
        short: list[tuple[Peer, int]] = []
        lost: list[tuple[Peer, OSError]] = []
        for form, peers in room.current.items():
            segment = room.log.segment(number, form)
            size = len(segment)
            for peer in peers:
                try:
                    sent = peer.transport.send_now(segment)
                except BlockingIOError:
                    sent = 0
                except OSError as error:
                    lost.append((peer, error))
                    continue
                if sent != size:
                    short.append((peer, sent))
            if logs.frames.isEnabledFor(logging.DEBUG):
                later = {peer for peer, sent in short if not sent}  # shown when they are sent the first of it
                for peer in peers - later:
                    peer.session.show_sent(segment)
        for peer, sent in short:
            peer.cursor = Cursor(number, sent)
            peer.in_segment = sent + peer.transport.committed_bytes > 0
            self._fall_behind(peer, room)
        for peer, loss in lost:
            self._drop(peer, loss.strerror or str(loss))
        for peer in list(room.behind):
            self._check_lag(peer, room)
        room.trim()

    def _check_lag(self, peer: Peer, room: Room) -> None:
        lag_bytes = room.log.lag_bytes(peer.cursor, peer.form)
        if lag_bytes > self._limits.max_lag_bytes and peer.session.state is State.OPEN:
            told = f"{lag_bytes} bytes behind, over the limit of {self._limits.max_lag_bytes} (--max-lag)"
            self._log(peer, FAULT, f"reads too slowly: {told}", logging.WARNING)
            peer.session.close(1013, told)
            peer.farewell = peer.session.data_to_send()
            self._leave(peer)

    # Writing to one peer

    def _send_alone(self, peer: Peer, frames: bytes) -> None:
        """Queue frames for this peer only, and send what can be sent now."""
        if peer.session.on_frame is not None:
            peer.session.show_sent(frames)
        if peer.interest == READABLE:  # nothing waits to be sent: most often it all goes at once
            try:
                sent = peer.transport.send_now(frames)
            except BlockingIOError:
                sent = 0
            except OSError as error:
                self._drop(peer, error.strerror or str(error))
                return
            if sent == len(frames):
                return
            peer.outbox = memoryview(frames)[sent:]
        else:
            peer.outbox = b"".join((peer.outbox, frames))
        self._flush(peer)

    def _flush(self, peer: Peer) -> None:
        """Send what the peer's socket takes now, and watch it for writability if something is left."""
        try:
            done = self._send_pending(peer)
        except OSError as error:
            self._drop(peer, error.strerror or str(error))
            return
        room = peer.room
        if room is not None:
            if not done:
                if room.is_current(peer):
                    peer.cursor = Cursor(room.log.next)
                self._fall_behind(peer, room)
            elif peer.stop_before is not None:
                self._leave(peer)
                return
            elif peer in room.behind:
                room.add_current(peer)
                room.trim()
        if done and peer.session.is_closed and room is None and not peer.shut:
            peer.transport.shutdown_write()
            peer.shut = True
        self._watch(peer, done)

    def _send_pending(self, peer: Peer) -> bool:
        """Send from the outbox and the log, each at its turn; False when the socket takes no more."""
        transport, room = peer.transport, peer.room
        lags = room is not None and peer in room.behind
        while True:
            if peer.outbox and not peer.in_segment:
                sent = transport.try_send(peer.outbox)
                if sent < len(peer.outbox):
                    peer.outbox = memoryview(peer.outbox)[sent:]
                    return False
                peer.outbox = b""
            if room is None or not lags:
                return True
            number, offset = peer.cursor
            if number == (room.log.next if peer.stop_before is None else peer.stop_before):
                return True
            segment = room.log.segment(number, peer.form)
            sent = transport.try_send(memoryview(segment)[offset:] if offset else segment)
            if sent and not offset:
                peer.session.show_sent(segment)
            if offset + sent < len(segment):
                peer.cursor = Cursor(number, offset + sent)
                peer.in_segment = offset + sent + transport.committed_bytes > 0
                return False
            peer.cursor = Cursor(number + 1)
            peer.in_segment = False

    def _fall_behind(self, peer: Peer, room: Room) -> None:
        room.add_behind(peer)
        self._watch(peer, done=False)

    def _watch(self, peer: Peer, done: bool) -> None:
        """Ask the poller for what this peer is waited for."""
        interest = READABLE if len(peer.outbox) <= MAX_OUTBOX_BYTES else 0
        if not done:
            interest |= WRITABLE
        if interest != peer.interest:
            peer.interest = interest
            self._poller.watch(peer.transport.fileno(), interest)

    # Going

    def _close(self, peer: Peer, code: int, reason: str) -> None:
        """Begin the closing handshake; our close goes out behind what the room has published so far."""
        peer.session.close(code, reason)
        peer.farewell = peer.session.data_to_send()
        peer.close_at = trio.current_time() + (self._limits.close_timeout_s or math.inf)
        assert peer.room is not None
        peer.stop_before = peer.room.log.next
        if peer.room.is_current(peer):
            self._leave(peer)

    def _leave(self, peer: Peer) -> None:
        """Take a peer out of its room at the next frame boundary, and send its farewell there."""
        room = peer.room
        if room is not None:
            if peer.in_segment:
                committed_bytes = peer.transport.committed_bytes
                rest = room.log.rest_of_frame(peer.cursor, peer.form, committed_bytes=committed_bytes)
                peer.outbox = b"".join((rest, peer.outbox))
                peer.in_segment = False
            self._forget(peer, room)
        peer.session.show_sent(peer.farewell)
        peer.outbox = b"".join((peer.outbox, peer.farewell))
        peer.farewell = b""
        peer.close_at = min(peer.close_at, trio.current_time() + (self._limits.close_timeout_s or math.inf))
        if peer.transport.fileno() >= 0:
            self._flush(peer)

    def _forget(self, peer: Peer, room: Room) -> None:
        peer.room = None
        room.remove(peer)
        if not room and self._rooms.get(room.path) is room:
            del self._rooms[room.path]

    def _drop(self, peer: Peer, cause: str) -> None:
        """Close a peer's socket, whatever state it is in. Harmless when it was dropped before."""
        fd = peer.transport.fileno()
        if fd < 0:
            return
        if peer.room is not None:
            self._forget(peer, peer.room)
        del self._peers[fd]
        self._poller.remove(fd)
        peer.transport.close()
        if not self._peers:
            self._empty.set()
        if not logs.hub.isEnabledFor(logging.INFO):
            return
        session = peer.session
        orderly = session.close_rcvd is not None and session.fault is None
        told = f"{session.describe_end()}; {cause}" if cause else session.describe_end()
        self._log(peer, STATE if orderly else FAULT, told)

    # Deadlines

    async def _watch_deadlines(self) -> None:
        limits = self._limits
        timers = [limits.ping_interval_s, limits.ping_timeout_s, limits.close_timeout_s]
        tick_s = min([TICK_S, *(seconds / 4 for seconds in timers if seconds)])
        while True:
            await trio.sleep(tick_s)
            now = trio.current_time()
            for peer in list(self._peers.values()):
                self._check_deadlines(peer, now)

    def _check_deadlines(self, peer: Peer, now: float) -> None:
        limits = self._limits
        if peer.session.state is not State.OPEN:
            if now >= peer.close_at:
                self._drop(peer, f"cut off, since the client has not closed within {limits.close_timeout_s:g} s")
            return
        if peer.heard:
            peer.answer_by = math.inf
        if now >= peer.answer_by:
            self._log(peer, TIMER, f"no byte within {limits.ping_timeout_s:g} s of a ping")
            peer.session.close(1011, f"no answer to a ping within {limits.ping_timeout_s:g} s")
            peer.farewell = peer.session.data_to_send()
            self._leave(peer)  # the close goes out if it can; there is nobody to wait for
            self._drop(peer, "cut off, since the client no longer answers")
        elif now >= peer.ping_at:
            peer.session.ping(b"rawws")
            peer.ping_at = now + limits.ping_interval_s
            if peer.answer_by == math.inf:  # the oldest ping that nothing has answered counts
                peer.heard = False
                peer.answer_by = now + (limits.ping_timeout_s or math.inf)
            self._send_alone(peer, peer.session.data_to_send())

    def _log(self, peer: Peer, mark: str, text: str, level: int = logging.INFO) -> None:
        logs.line(logs.hub, level, peer.number, mark, text)
