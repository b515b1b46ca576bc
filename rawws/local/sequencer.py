"""The sequencer of a machine: it gives the messages of all workers one order, and passes them on.

::

    worker 1 ──▶ Publish ──▶ ┌───────────┐ ──▶ Batch ──▶ every worker that follows the room,
    worker 2 ──▶ Publish ──▶ │ sequencer │               the one that has published, too
                             └───────────┘
                          numbers, histories,
                          Idempotency-Keys

It lives in the first process, which serves no clients: so it is idle otherwise, and outlives each worker. Each worker
has a link to it, a pair of Unix sockets, and is the same as a node on Redis to all else.

The promises, and what keeps them:

* **One order for all.** A room's messages are numbered one after the other, in the order in which they come, and a link
  keeps their order. A worker appends to its log only what comes back.
* **Nothing twice, nothing lost unnoticed.** Numbers are contiguous. A worker that gets a later one than it expects
  tells its readers of a gap.
* **A worker that doesn't read** holds up the others for at most `STALL_S`: while too much waits for a worker that still
  takes something, no more is read from any of them, which holds the publishers. Beyond `MAX_LIVE_BYTES` a worker loses
  all that waits, and follows its rooms again when it reads on. It gets what their histories still have.
* **A worker that ends** takes nothing with it but its own connections: what it has sent is still read. Its peers resume
  at another one by the same ids.

This module knows no sockets and no clock. Its caller gives each message to `Sequencer.receive`, and sends the bytes of
`Link.outgoing` for the links in `Sequencer.touched`.

Unix sockets carry the messages, and not memory that the processes share. On one core, two workers and the sequencer
deliver fourteen times as many messages as two nodes on Redis, and as many as a server alone; the sequencer uses a tenth
of the time of a worker. There is nothing left that a ring could save.
"""

from __future__ import annotations

import math
from collections import OrderedDict, deque
from collections.abc import Mapping
from typing import Any

from rawws.broadcast.log import History as Limits
from rawws.broadcast.node_answers import NodeName
from rawws.limits import MIB
from rawws.local import protocol
from rawws.local.outgoing import Outgoing
from rawws.local.protocol import VERSION, Batch, Kind, Message, Note, ProtocolError, Publish, note
from rawws.local.sequence import Sequence

# While more than this waits for a worker that has taken something within this time, publishers are held.
CONGESTED_BYTES, STALL_S = 2 * MIB, 0.5
# A room that nobody follows and that keeps nothing is remembered for this time, so that its ids go on for clients that
# come back; and at most so many of them.
UNUSED_S, MAX_UNUSED = 60.0, 10_000
# At most this many rooms are looked through in a sweep, for what is too old.
SWEPT = 2000


class Link:
    """The sequencer's end of a connection to a worker."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.name: NodeName | None = None  # None until it has introduced itself
        self.outgoing = Outgoing()
        self.progress_at = -math.inf  # when it has last taken something
        self.follows = set[str]()
        self.done = 0  # the number of its last message that was published
        self.results: list[tuple[int, str, int, bool]] = []

    def is_congested(self, now: float) -> bool:
        """Whether publishers should wait for it."""
        return self.outgoing.live_bytes > CONGESTED_BYTES and now - self.progress_at < STALL_S


class Sequencer:
    """The rooms and the links. Times are seconds of one clock, since 1970: workers are told of them."""

    def __init__(self, max_bytes: float = math.inf, max_rooms: float = math.inf) -> None:
        """Histories beyond ``max_bytes`` together are forgotten, those of the quietest rooms first.

        So are those beyond ``max_rooms`` of rooms that nobody follows: the workers count only those that they follow.
        """
        self.links: dict[int, Link] = {}
        self.touched = set[Link]()  # those for which something waits; the caller empties it
        self.held_bytes = 0  # of all rooms
        self._max_bytes = max_bytes
        self._max_rooms = max_rooms
        self._last_link = 0
        self._rooms: dict[str, Sequence] = {}
        self._counted: dict[str, int] = {}  # the bytes of each room in ``held_bytes``
        self._keeping: OrderedDict[str, Sequence] = OrderedDict()  # the rooms with a history, the quietest first
        self._left: OrderedDict[str, Sequence] = OrderedDict()  # those of them that nobody follows, likewise
        self._unused: OrderedDict[str, Sequence] = OrderedDict()
        self._to_sweep: deque[str] = deque()

    def __repr__(self) -> str:
        return f"<Sequencer links={len(self.links)} rooms={len(self._rooms)} bytes={self.held_bytes}>"

    @property
    def rooms(self) -> int:
        """The number of rooms that it knows."""
        return len(self._rooms)

    @property
    def used_bytes(self) -> int:
        """The bytes of memory that it takes: those of the rooms, and what waits for workers."""
        return self.held_bytes + sum(link.outgoing.held_bytes for link in self.links.values())

    # Links

    def connect(self) -> Link:
        """Return the link of a new worker."""
        self._last_link += 1
        link = self.links[self._last_link] = Link(self._last_link)
        return link

    def disconnect(self, link: Link, now: float) -> None:
        """Forget a worker that is gone."""
        del self.links[link.number]
        self.touched.discard(link)
        for path in list(link.follows):
            self._unfollow(link, path, now)

    def is_congested(self, now: float) -> bool:
        """Whether nothing should be read from workers just now, since one of them takes long."""
        return any(link.is_congested(now) for link in self.links.values())

    def receive(self, link: Link, message: Message, now: float) -> None:
        """Carry out a message of a worker. Raises `ProtocolError` for one that makes no sense."""
        if isinstance(message, Publish):
            self._publish(link, message, now)
            return
        assert isinstance(message, Note), "nothing else goes to the sequencer"
        if link.name is None and message.kind is not Kind.HELLO:
            raise ProtocolError("a worker has to introduce itself first")
        fields = message.fields
        match message.kind:
            case Kind.FOLLOW:
                self._follow(link, now, *fields)
            case Kind.UNFOLLOW:
                self._unfollow(link, fields[0], now)
            case Kind.CLEAR:
                self._clear(link, *fields)
            case Kind.SYNC:
                self._send(link, Kind.SYNCED, fields[0], self.rooms, self.used_bytes)
            case Kind.TELL:
                self._pass_on(link, fields, asks=False)
            case Kind.ASK:
                others = [each.name for each in self._others(link)]
                self._send(link, Kind.ROLL, fields[2], others)
                self._pass_on(link, fields, asks=True)
            case Kind.REPLY:
                self._reply(link, *fields)
            case _:
                self._welcome(link, *fields)

    def finish(self, link: Link) -> None:
        """Tell a worker what is done of all that was received from it since the last call."""
        if link.done or link.results:
            self._send(link, Kind.DONE, link.done, link.results)
            link.done, link.results = 0, []

    def _send(self, link: Link, kind: Kind, *fields: object) -> None:
        link.outgoing.put_note(note(kind, *fields))
        self.touched.add(link)

    def _welcome(self, link: Link, version: int, node: str, host: str) -> None:
        if version != VERSION:
            raise ProtocolError(f"the worker speaks version {version} of the protocol, and the first process {VERSION}")
        link.name = NodeName(node, host)
        self._send(link, Kind.WELCOME, VERSION, link.number)

    # Rooms

    def _room(self, path: str, now: float) -> Sequence:
        room = self._rooms.get(path)
        if room is None:
            room = self._rooms[path] = Sequence(path)
        room.used_at = now
        return room

    def _file(self, room: Sequence) -> None:
        """Record what a room keeps, after each change, and stay within bounds."""
        self._count(room)
        for rooms in (self._keeping, self._left, self._unused):
            rooms.pop(room.path, None)
        if room.is_unused:
            self._unused[room.path] = room
            if len(self._unused) > MAX_UNUSED:
                self._forget(next(iter(self._unused.values())))
        elif room.keeps:
            self._keeping[room.path] = room
            if not room.followers:
                self._left[room.path] = room
            if len(self._left) > self._max_rooms:
                self._end_quietest(self._left)
            while self.held_bytes > self._max_bytes and self._keeping:
                self._end_quietest(self._keeping)

    def _end_quietest(self, rooms: OrderedDict[str, Sequence]) -> None:
        """Forget the history of the quietest of some rooms."""
        quietest = next(iter(rooms.values()))
        quietest.end_history()
        self._file(quietest)

    def _count(self, room: Sequence) -> None:
        held = room.held_bytes
        self.held_bytes += held - self._counted.get(room.path, 0)
        self._counted[room.path] = held

    def _forget(self, room: Sequence) -> None:
        del self._unused[room.path], self._rooms[room.path]
        self.held_bytes -= self._counted.pop(room.path)

    def sweep(self, now: float) -> None:
        """Forget what is too old, of some rooms at a time. This is due every second or so."""
        while self._unused and (room := next(iter(self._unused.values()))).used_at <= now - UNUSED_S:
            self._forget(room)
        if not self._to_sweep:
            self._to_sweep.extend(self._keeping)
        for _ in range(min(SWEPT, len(self._to_sweep))):
            if (kept := self._keeping.get(self._to_sweep.popleft())) is not None:
                kept.expire(now)
                self._count(kept)
                if not kept.keeps:
                    self._file(kept)

    def _follow(
        self, link: Link, now: float, path: str, messages: int, size: int, age_s: float, epoch: str | None, number: int
    ) -> None:
        room = self._room(path, now)
        room.limit(Limits(messages, size, age_s), now)
        room.followers.add(link.number)
        link.follows.add(path)
        link.outgoing.put_history(room.read(protocol.place_of(epoch, number)))
        self.touched.add(link)
        self._file(room)

    def _unfollow(self, link: Link, path: str, now: float) -> None:
        link.follows.discard(path)
        room = self._rooms.get(path)
        if room is not None and link.number in room.followers:
            room.followers.remove(link.number)
            room.used_at = now
            self._file(room)

    def _publish(self, link: Link, given: Publish, now: float) -> None:
        room = self._room(given.path, now)
        outcome = room.append(given, now)
        link.done = given.serial
        if given.wants_result:
            link.results.append((given.serial, room.epoch, outcome.first, outcome.is_reused))
        if room.followers and not (outcome.is_repeat or outcome.is_reused):
            fields = (outcome.first, given.messages, now, link.number, given.sender, given.key, given.frames)
            encoded = protocol.batch(Batch(given.path, room.epoch, *fields))
            for number in list(room.followers):
                self._send_live(self.links[number], encoded)
        self._file(room)

    def _send_live(self, link: Link, encoded: bytes) -> None:
        self.touched.add(link)
        if not link.outgoing.put_live(encoded):  # it will follow its rooms again
            for path in link.follows:
                room = self._rooms[path]
                room.followers.discard(link.number)
                self._file(room)
            link.follows.clear()

    def _clear(self, link: Link, serial: int, path: str) -> None:
        room = self._rooms.get(path)
        if room is not None:
            room.clear()
            self._file(room)
            for number in room.followers - {link.number}:  # the worker that asks clears its own
                self._send(self.links[number], Kind.CLEARED, path)
        link.done = serial

    # Commands

    def _others(self, link: Link) -> list[Link]:
        return [each for each in self.links.values() if each is not link and each.name is not None]

    def _pass_on(self, link: Link, fields: tuple[Any, ...], *, asks: bool) -> None:
        assert link.name is not None
        kind, body, serial = fields
        arguments: Mapping[str, Any] = body
        for other in self._others(link):
            self._send(other, Kind.COMMAND, kind, arguments, link.name.node, serial, asks)

    def _reply(self, link: Link, node: str, serial: int, items: str, left_out: int) -> None:
        assert link.name is not None
        for other in self._others(link):
            if other.name is not None and other.name.node == node:
                self._send(other, Kind.ANSWER, serial, *link.name, items, left_out)
