"""A peer: one connection after its handshake, as the loop sees it (`rawws.relay.loop`).

A peer has no task of its own. Its messages go one of three ways: into the log of the room that it publishes to,
back to itself, or into an `Inbox`, from which the program that holds its `WebSocket` takes them.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

import trio

from rawws.broadcast.encodings import Encoding
from rawws.broadcast.response_stream import ResponseStream
from rawws.broadcast.token_bucket import TokenBucket
from rawws.errors import Cause, Closed, ConnectionClosed, ConnectionClosedError, ConnectionClosedOK
from rawws.hooks import is_application_error
from rawws.limits import Limits
from rawws.net.accept import Address
from rawws.net.transport import RECEIVE_BYTES, Transport
from rawws.relay.room_base import RoomBase
from rawws.relay.sleepers import Sleepers
from rawws.relay.writer import PeerWriter
from rawws.tracing import Tracer
from rawws.wire.events import MessagePart, PlainEvent, PlainMessage, PongReceived
from rawws.wire.frames import MAX_CONTROL_PAYLOAD_BYTES
from rawws.wire.session import Session

# OK_CODES on both sides make an orderly end; 1005 is a close without a code (RFC 6455 §7.1.5, §7.4.1).
OK_CODES = frozenset({1000, 1001, 1005})

# The limit of an inbox that takes no more.
_NOTHING = -1

# At most this many messages of one peer are read at a time. The rest of the received bytes waits for its next turn.
MOST_MESSAGES = 500

# A message that waits for a program, besides its payload: the tuple, the head of the bytes, its place in the queue.
WAITING_BYTES = 120


class PeerGroup:
    """The limits, the count and the tracer of all peers of one server, or of the one peer of a client."""

    __slots__ = ("_gone", "_on_leave", "_shows_frames", "limits", "on_program_end", "peer_count", "tracer")

    def __init__(
        self,
        limits: Limits,
        on_leave: Callable[[int], None] | None = None,
        tracer: Tracer | None = None,
        *,
        shows_frames: bool = True,
    ) -> None:
        """``on_leave`` is called with the number of each connection that ends. ``tracer`` gets all traffic.

        Without ``shows_frames`` no frames are shown. This is for connections that carry the frames of others.
        """
        self.limits = limits
        self.tracer = tracer or Tracer()
        self._shows_frames = shows_frames
        self.peer_count = 0
        self._on_leave = on_leave
        # Takes an exception that ends the program, such as SystemExit, which a callback of the program has raised, and
        # returns whether it will be raised.
        self.on_program_end: Callable[[BaseException], bool] | None = None
        self._gone = trio.Event()

    def show_frames(self, number: int, session: Session) -> None:
        """Have a session show its frames to the log and the tracer, as far as these want to see them."""
        if not self._shows_frames:
            return
        on_frame = self.tracer.frame_watcher(number, session.our_role)
        session.watch(on_frame, max(MAX_CONTROL_PAYLOAD_BYTES, self.tracer.shown_bytes))

    def takes_for_end(self, error: BaseException) -> bool:
        """Pass on an exception of a callback if it ends the program, and return whether it will be raised.

        The loop of all peers runs in a system task, where trio would take it for an error of trio's own. So the server
        raises it. Without a server, it is a failure of the callback like any other.
        """
        if self.on_program_end is None or is_application_error(error):
            return False
        return self.on_program_end(error)

    def on_peer_gone(self, number: int) -> None:
        """Count one peer less. The loop calls this."""
        self.peer_count -= 1
        if self._on_leave is not None:
            self._on_leave(number)
        if not self.peer_count:
            self._gone.set()

    async def wait_empty(self) -> None:
        """Wait until no peer is left."""
        while self.peer_count:
            self._gone = trio.Event()
            await self._gone.wait()


class Loss(NamedTuple):
    """The reason why a peer's socket takes nothing any more, and the number of bytes that waited for it.

    The poller doesn't report a reason. Then ``why`` is empty, and the end of the stream shows the reason.
    """

    why: str
    unsent_bytes: int


class FlowControl:
    """The rate limit of a peer, and the count of messages that it has missed. Most peers need none."""

    __slots__ = ("bucket", "last_progress_at", "notice", "notice_bytes", "noticed", "read_paused_until", "skipped")

    def __init__(self, bucket: TokenBucket | None = None) -> None:
        self.bucket = bucket  # limits its messages, if there is a limit
        self.read_paused_until = 0.0  # it has exceeded its limit, and isn't read before this time
        self.skipped = 0  # messages that it will never get, because it read too slowly
        self.notice = b""  # the last notification of that, which may still be queued
        self.noticed = 0  # the number of messages in that notification
        self.notice_bytes = 0  # of joins and leaves that may be queued
        self.last_progress_at = math.inf  # when it last took data, if a room waits for it


class About(NamedTuple):
    """The facts about a relayed peer that its socket doesn't have. Most peers share one object, to save memory."""

    user: object = None  # the result of ``authenticate``
    subprotocol: str | None = None
    client: Address | None = None  # its address, where a trusted proxy reports it


NOTHING = About()


class Peer(PeerWriter):
    """One WebSocket connection as the loop sees it. The loop owns its transport.

    `rawws.relay.writer.PeerWriter` is its sending side, and owns all data that waits to be sent.
    """

    __slots__ = (
        "about",
        "cause",
        "close_at",
        "closed",
        "deferred_frames",
        "drained",
        "endpoint",
        "flow",
        "heard_at",
        "held_back",
        "inbox",
        "lost",
        "ping_at",
        "pong_deadline",
        "publishes_to",
        "receive_bytes",
        "seen_since_ping",
        "write_shut_down",
    )

    def __init__(
        self,
        number: int,
        transport: Transport,
        session: Session | ResponseStream,
        endpoint: PeerGroup,
        encoding: Encoding,
    ) -> None:
        super().__init__(number, transport, session, encoding)
        self.endpoint = endpoint
        # The room whose log gets its messages. Without a room and an inbox, the messages are echoed.
        self.publishes_to: RoomBase[Peer] | None = None
        self.inbox: Inbox | None = None
        self.about = NOTHING
        # For a peer without an inbox: tasks with a message for it alone wait here until it has taken earlier ones.
        self.drained: trio.lowlevel.ParkingLot | None = None
        self.flow: FlowControl | None = None  # only for a peer that lags or has a rate limit
        self.receive_bytes = RECEIVE_BYTES  # to ask for next time
        self.seen_since_ping = False  # whether any byte has come since the last ping
        self.heard_at = time.perf_counter()
        # The room in which it has published while publishers have to wait: it isn't read from. `SlowPeers` ends that.
        # A change of its grant has no effect on this, while `publishes_to` is another room then.
        self.held_back: RoomBase[Peer] | None = None
        self.deferred_frames: list[bytes | bytearray] | None = None  # the messages that it published then
        self.ping_at = math.inf
        self.pong_deadline = math.inf  # when the last ping must have been answered
        self.close_at = math.inf  # when the socket is closed, whatever the peer does
        self.write_shut_down = False  # we have sent all that we ever will, and wait for the peer's end of the stream
        self.cause: Cause | None = None  # the reason for our close, if we have begun one
        self.closed: Closed | None = None  # how it ended; `end` sets it, once
        self.lost: Loss | None = None  # set when its socket takes no more; bytes that it has sent are still read

    def __repr__(self) -> str:
        rooms = ", ".join(room.path for room in self.rooms)
        return f"<Peer #{self.number} rooms=[{rooms}] outbox={self.queued_bytes} {self.session!r}>"

    @property
    def id(self) -> int:
        """The connection's number, as the log has it."""
        return self.number

    @property
    def remote_address(self) -> str:
        """The other end as the socket knows it, ``host:port``."""
        return self.transport.peer_name

    @property
    def owner(self) -> Owner | None:
        """The object that the program holds; None for a peer that is only relayed."""
        return None if self.inbox is None else self.inbox.owner

    @property
    def path(self) -> str:
        """The path that it requested; empty if it isn't kept, as in echo mode."""
        owner = self.owner
        if owner is not None:
            return owner.path
        return self.rooms[0].path if self.rooms else ""

    async def wait_drained(self) -> None:
        """Wait until its socket has accepted all that was queued, or the connection has ended.

        This is for a task that sends a message to a peer without an inbox.
        """
        if self.drained is None:
            self.drained = trio.lowlevel.ParkingLot()
        await self.drained.park()

    def wake_senders(self) -> None:
        """Wake the tasks in `wait_drained`."""
        if self.inbox is not None:
            self.inbox.wake_senders()
        if self.drained is not None:
            self.drained.unpark_all()

    @property
    def unanswered_bytes(self) -> int:
        """The bytes of queued automatic answers, such as pongs and echoes, without a program's messages."""
        return self.answer_bytes if self.inbox is not None else self.queued_bytes - self.program_bytes

    def end(self, cause: Cause, detail: str = "") -> Closed:
        """Record how the connection ended, and return it. The first call decides; later ones change nothing.

        ``cause`` and ``detail`` are our side's view of the end; the session's view takes precedence. The inbox, the
        counter, the tracer and the log all take the end from here, so that they agree.
        """
        if self.closed is None:
            self.closed = self.describe_end(cause, detail)
            if self.inbox is not None:
                self.inbox.end(self.closed)
        return self.closed

    def describe_end(self, cause: Cause, detail: str = "") -> Closed:
        """Return how the connection would end now, by the given cause."""
        session = self.session
        rcvd = session.close_rcvd
        if cause is Cause.ERROR:
            pass  # a failure of our own explains an end before anything that the peer did
        elif session.fault is not None:
            cause = Cause.LIMIT if session.fault.close_code == 1009 else Cause.PROTOCOL_ERROR
        elif rcvd is not None and session.close_begun_by is not session.our_role:
            cause = Cause.PEER_CLOSE
        elif self.cause is not None and (self.cause is not Cause.OUR_CLOSE or session.is_closed):
            cause = self.cause  # a close without an answer ends by the event that came instead
        sentence = session.describe_end() + (f": {detail}" if detail else "")
        # §7.1.5, §7.1.6: the code and the reason are those of the close that was received.
        code, reason = (1006, "") if rcvd is None else rcvd
        by_us = session.close_begun_by is session.our_role
        return Closed(code, reason, by_us, cause, sentence, rcvd=rcvd, sent=session.close_sent)

    @property
    def ended_well(self) -> bool:
        """Whether both closes have crossed, each with a code that means no problem."""
        sent, rcvd = self.session.close_sent, self.session.close_rcvd
        return sent is not None and rcvd is not None and sent.code in OK_CODES and rcvd.code in OK_CODES

    def closed_error(self, closed: Closed) -> ConnectionClosed:
        """Return the exception for a call that the end of the connection has made impossible."""
        return ConnectionClosedOK(closed) if self.ended_well else ConnectionClosedError(closed)


class Owner(Protocol):
    """The object through which a program holds a peer, which is a `rawws.WebSocket`."""

    @property
    def id(self) -> int: ...
    @property
    def path(self) -> str: ...


class Inbox:
    """A peer's messages that the program has not taken yet, and the tasks that wait for the peer.

    While it has more than ``limit`` messages, the loop doesn't read from the peer. So a program that is slower than its
    peer slows the peer down, and doesn't fill the memory.
    """

    __slots__ = (
        "__weakref__",
        "also_held",
        "closed",
        "deferred_close",
        "drained",
        "drains",
        "ended",
        "is_released",
        "items",
        "latency_s",
        "limit",
        "own_bytes",
        "owner",
        "paused",
        "pings",
        "readers",
    )

    def __init__(self, limit: float) -> None:
        self.limit = limit
        self.items: deque[PlainMessage | MessagePart] = deque()
        self.paused = False  # the loop has stopped reading
        # The session has ended, and our close waits until the program has taken and answered the messages before it.
        self.deferred_close: bytes | None = None
        self.closed: Closed | None = None
        self.ended = trio.Event()  # set when ``closed`` is known
        self.latency_s: float | None = None
        self.pings: dict[bytes, _Ping] = {}  # pings that wait for their pong, in the order in which they were sent
        self.owner: Owner | None = None
        self.own_bytes = 0  # memory of the program's WebSocket, without the messages in here
        self.is_released = False  # the program is done with the WebSocket
        self.also_held: Callable[[], int] | None = None  # returns the bytes that the program keeps for the peer
        self.readers = Sleepers()  # the tasks that wait for an item, or for the end
        # Tasks with something to send wait here until the peer has taken earlier data.
        self.drained = trio.lowlevel.ParkingLot()
        self.drains = 0  # how many times the operating system has taken all that was queued

    def most_events(self, peer: Peer) -> float:
        """Return how many events the next read may have; it is at least 1."""
        # After our close, messages that don't fit are dropped: the peer's close may come after them.
        if peer.session.close_sent is not None or peer.lost is not None:
            return MOST_MESSAGES
        space = self.limit + 1 - len(self.items)
        return MOST_MESSAGES if space > MOST_MESSAGES else space if space > 1 else 1

    @property
    def is_full(self) -> bool:
        return len(self.items) > self.limit

    @property
    def waiting_bytes(self) -> int:
        """The memory of the messages, and of all else that the program keeps for the peer."""
        if not self.items and self.also_held is None:
            return 0
        also = 0 if self.also_held is None else self.also_held()
        return also + sum(len(item[1]) + WAITING_BYTES for item in self.items)

    def deliver(self, peer: Peer, events: Sequence[PlainEvent]) -> bool:
        """Take the events of a read. Return whether reading has to stop until the program has taken some messages.

        After our close, or when the peer is lost, messages are taken while they fit. Reading must go on, or the peer's
        close would not be seen.
        """
        closing = peer.session.close_sent is not None or peer.lost is not None
        for event in events:
            if type(event) is tuple or type(event) is MessagePart:  # a whole message is a plain tuple
                if not closing or not self.is_full:
                    self.items.append(event)  # type: ignore[arg-type]
                else:
                    self.take_no_more()
            elif type(event) is PongReceived:
                self.answer_ping(event.payload, trio.current_time())
            # Pings, closes and faults need nothing here: the session itself has acted on them.
        self.readers.wake()
        stops = self.is_full and not self.paused and not closing
        if stops:
            self.paused = True
        return stops

    def flush(self) -> None:
        """Send what the program has gathered for the peer, if it gathers anything."""

    def wake_senders(self) -> None:
        """Wake the tasks with something to send: the operating system has taken all that was queued."""
        self.drains += 1
        self.drained.unpark_all()

    def forget(self) -> None:
        """Drop waiting and later messages: no message may follow one that is missing."""
        self.items.clear()
        self.take_no_more()

    def take_no_more(self) -> None:
        """Drop later messages, since one is missing before them. Waiting messages can still be received."""
        self.limit = _NOTHING

    @property
    def misses_messages(self) -> bool:
        """Whether a message has been dropped, so that none may follow."""
        return self.limit == _NOTHING

    def end(self, closed: Closed) -> None:
        """Wake every task that waits, with the end of the connection; `Peer.end` calls this once."""
        self.closed = closed
        self.ended.set()
        self.readers.wake()
        self.drained.unpark_all()
        for ping in self.pings.values():
            ping.answered.set()

    def add_ping(self, payload: bytes, now: float) -> _Ping:
        ping = self.pings[payload] = _Ping(now)
        return ping

    def answer_ping(self, payload: bytes, now: float) -> None:
        """Settle a ping, and those before it: a peer may answer only the last of several (§5.5.3)."""
        if payload not in self.pings:
            return
        for sent, ping in list(self.pings.items()):
            del self.pings[sent]
            ping.latency_s = self.latency_s = now - ping.sent_at
            ping.answered.set()
            if sent == payload:
                break


class _Ping:
    __slots__ = ("answered", "latency_s", "sent_at")

    def __init__(self, now: float) -> None:
        self.sent_at = now
        self.latency_s: float | None = None
        self.answered = trio.Event()
