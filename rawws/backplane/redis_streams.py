"""Rooms shared with other nodes through Redis Streams.

::

    peers ──▶ publish ───▶ outbox ══ a script, a batch at a time ══▶ Redis: a stream a room
                                                                        ║
    peers ◀── the room's log ◀── every node, the sender's too ══ XREAD ═╝

A published message goes only to Redis. Every node that has readers in a room follows its stream, and appends the new
entries to its own log. So everybody gets the same order, and the stream's ids are the messages' ids on every node.
Nodes need not know of each other.

``commander`` has the commands that go from one node to all others, and the questions that all others answer.

``publisher`` is the upper half of the picture, and ``reader`` the lower one. ``connector`` connects to Redis, and
``troubles`` explains why Redis is unusable. The format of a stream's entries, and the detection of gaps, are in
``rawws.broadcast.stream_entries``.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from operator import attrgetter
from typing import TYPE_CHECKING, Any

import trio

from rawws import logs
from rawws.backplane.commander import Commander
from rawws.backplane.connector import Connector
from rawws.backplane.followed import Followed
from rawws.backplane.leases import Leases
from rawws.backplane.publisher import Publisher
from rawws.backplane.reader import LOOK_EVERY_S, Reader
from rawws.backplane.troubles import Lasts, Trouble
from rawws.broadcast.message_ids import MessageId
from rawws.broadcast.node_answers import Gathered, NodeName
from rawws.broadcast.outbox import Outgoing
from rawws.broadcast.stream_entries import Author
from rawws.errors import Refusal
from rawws.relay.backplane import AWAY, CommandTaker, check_key
from rawws.relay.loop import current_loop
from rawws.relay.room_state import RoomState
from rawws.wire.trace import FAULT, STATE

if TYPE_CHECKING:
    from rawws.backplane.connector import Client

# A start waits for at most this time for a Redis that is away, since that may be starting too.
START_S = 5.0
# A client waits for at most this time for a room that is not loaded yet.
OPEN_TIMEOUT_S = 3.0
# A command waits for at most this time for the messages that were published before it. After an outage, the reader of
# these may be back later than the reader of commands.
CATCH_UP_S = 3.0
# At most this many readers, each with two connections to Redis. Beyond that, each follows more rooms.
MOST_READERS = 100
# An empty room is followed for this time longer, since somebody may be about to join.
UNUSED_S = 5.0
_HOLD = "backplane"
HISTORY_SHARED = Refusal(
    501, "history_shared", "The history of a shared room is in Redis, where this server doesn't delete it."
)


@dataclass(frozen=True, slots=True)
class RedisStatistics:
    """Counts of a `RedisStreams` at one moment."""

    followed_rooms: int
    readers: int  # each with two connections to Redis
    waiting: int  # messages that are not yet published


class RedisStreams:
    """The backplane of one hub. `run` has to be running; `rawws.share` sees to that."""

    def __init__(
        self,
        url: str,
        refuse_room: Callable[[str, Collection[str]], Refusal | None],
        name: NodeName,
        taker: CommandTaker[RoomState],
    ) -> None:
        """``refuse_room`` returns why no room can be added besides the given ones, or None. ``name`` is unique.

        ``taker`` carries out the commands of other nodes. Raises `UsageError` when coredis is not installed, or the URL
        is invalid.
        """
        self._connector = Connector(url)
        self._node = name.node
        self.leases = Leases(self._connector, self._node)  # of the groups in its rooms, which have them run
        self._commander = Commander(name, self, taker, self._put, self._catch_up)
        self._publisher = Publisher(self._node, self._resume_publishers, self._note_published)
        self._serials = itertools.count(1)
        self._space = trio.lowlevel.ParkingLot()
        self._followed: dict[str, tuple[Followed, Reader]] = {}
        self._readers: dict[Reader, trio.CancelScope] = {}
        self._refuse_room = refuse_room
        self._nursery: trio.Nursery | None = None
        # Our publisher, readers and commander, as far as Redis is unusable for them. These two have yet to find it
        # usable, and one of them may have been refused a connection that the other one got.
        self._away: set[object] = {self._publisher, self._commander}
        self._logged_troubles = set[str]()  # the kinds of trouble that were logged since Redis was last usable
        self._has_been_there = False
        self._is_starting = True
        self._start_is_decided = trio.Event()
        self._unusable = ""  # why it can't be the backplane

    def __repr__(self) -> str:
        now = self.statistics()
        counts = f"rooms={now.followed_rooms} readers={now.readers} waiting={now.waiting}"
        return f"<RedisStreams {self._connector} {counts}>"

    def statistics(self) -> RedisStatistics:
        return RedisStatistics(len(self._followed), len(self._readers), self.waiting)

    @trio.lowlevel.enable_ki_protection
    async def run(self) -> None:
        """Publish and follow until cancelled. Redis may come and go."""
        memory = current_loop().memory
        memory.extra_usage.add(self._held_bytes)
        try:
            async with trio.open_nursery() as self._nursery:
                self._start(self._publisher, self._publisher.publish)
                self._start(self._commander, self._commander.work)
                self._nursery.start_soon(self._commander.carry_out)
                for reader, scope in self._readers.items():
                    self._start(reader, reader.read, scope)
                self._nursery.start_soon(self._sweep)
        finally:
            memory.extra_usage.discard(self._held_bytes)

    def _held_bytes(self) -> int:
        following = sum(followed.held_bytes for followed, _ in self._followed.values())
        return self._publisher.outbox.waiting_bytes + following + self._commander.held_bytes

    def _start(
        self,
        worker: object,
        work: Callable[[Client, Callable[[], None]], Awaitable[None]],
        scope: trio.CancelScope | None = None,
    ) -> None:
        if self._nursery is None:
            return  # `run` does it when it begins

        @trio.lowlevel.enable_ki_protection
        async def run() -> None:
            with scope or trio.CancelScope():
                await self._connector.run_with_reconnect(
                    lambda client: work(client, partial(self._note_works, worker)),
                    on_away=partial(self._note_away, worker),
                )

        self._nursery.start_soon(run)

    # Coming and going

    @property
    def is_away(self) -> bool:
        return bool(self._away)

    async def start(self) -> str:
        """Wait until Redis is usable, for at most `START_S`.

        Returns why it can never be the backplane, or an empty string. `run` has to be running.
        """
        with trio.move_on_after(START_S):
            await self._start_is_decided.wait()
        self._is_starting = False
        return self._unusable

    def _note_away(self, worker: object, trouble: Trouble) -> None:
        if self._unusable:
            return  # the start has failed
        if self._is_starting and trouble.lasts is Lasts.FOR_EVER:
            self._unusable = f"{self._connector} can't be the backplane: {trouble.sentence}"
            self._start_is_decided.set()
            return
        is_passing = trouble.lasts is Lasts.A_WHILE
        if not self._logged_troubles if is_passing else trouble.kind not in self._logged_troubles:
            why = f"the backplane is away ({trouble.sentence})" if is_passing else f"the backplane: {trouble.sentence}"
            level = logging.WARNING if is_passing else logging.ERROR
            logs.server_line(level, FAULT, f"{why}; peers stay, and published messages wait")
        self._logged_troubles.add(trouble.kind)
        self._away.add(worker)
        if trouble.lasts is Lasts.UNTIL_MENDED:
            self._start_is_decided.set()

    def _note_works(self, worker: object) -> None:
        """Record that our publisher or one of our readers has worked with Redis."""
        if not self._has_been_there and worker is self._publisher:
            self._has_been_there = True
            sentence = f"rooms are shared through {self._connector}; this is node {self._node}"
            logs.server_line(logging.INFO, STATE, sentence)
        self._away.discard(worker)
        if not self.is_away:
            self._start_is_decided.set()
        if self._logged_troubles and not self.is_away:
            self._logged_troubles.clear()
            logs.server_line(logging.INFO, STATE, "the backplane is back")

    # Publishing

    @property
    def is_full(self) -> bool:
        return self._publisher.outbox.is_full

    @property
    def waiting(self) -> int:
        return len(self._publisher.outbox)

    async def flush(self) -> None:
        while self.waiting:
            await self._space.park()

    async def ready(self) -> None:
        while self.is_full:
            await self._space.park()

    @property
    def refuses(self) -> bool:
        return False

    @property
    def trouble(self) -> str:
        return "the backplane is away" if self.is_away else ""

    @property
    def refusal(self) -> Refusal | None:
        return AWAY if self.is_away or self.is_full else None

    def take(self, room: RoomState, frames: Sequence[bytes | bytearray], sender: int, key: str | None = None) -> int:
        messages = Outgoing.split(room.path, frames, room.settings.history, sender, key)
        for message in messages:
            self.publish(message)
        return len(messages)

    def publish(self, message: Outgoing) -> None:
        check_key(message.key)  # in the outbox it would block all later messages
        message.author = Author(self._node, message.sender, next(self._serials))
        self._put(message)

    def _put(self, message: Outgoing) -> None:
        was_full = self.is_full
        self._publisher.put(message)
        if self.is_full and not was_full:
            for followed, _ in self._followed.values():
                followed.room.holds.add(_HOLD)

    def withdraw(self, message: Outgoing) -> bool:
        return self._publisher.withdraw(message)

    async def clear(self, room: RoomState) -> Refusal | None:
        del room
        return HISTORY_SHARED

    def _resume_publishers(self) -> None:
        self._space.unpark_all()
        for followed, _ in self._followed.values():
            if _HOLD in followed.room.holds:
                current_loop().slow.unblock(followed.room, _HOLD)

    def _note_published(self, message: Outgoing) -> None:
        """Check the stream if a message got an id that the reader has passed without reading the message.

        Such a stream has started again with lower ids, and its reader would never get them.
        """
        known = self._followed.get(message.path)
        if known is not None and known[0].has_passed(message):
            known[0].invalidate()
            known[1].look()

    # Commands

    @property
    def waiting_commands(self) -> int:
        """The number of commands on their way to Redis, which are among the messages that wait."""
        return self._commander.waiting

    def tell(self, kind: str, body: Mapping[str, Any]) -> None:
        self._commander.tell(kind, body, next(self._serials))

    async def ask(self, kind: str, body: Mapping[str, Any], timeout_s: float) -> Gathered:
        return await self._commander.ask(kind, body, timeout_s)

    async def leave(self) -> None:
        """Tell the other nodes that this one ends."""
        await self._commander.leave()

    async def _catch_up(self, rooms: Collection[RoomState]) -> None:
        """Wait until some rooms have what was published before this call, for at most `CATCH_UP_S`."""
        known = [known for room in rooms if (known := self._followed.get(room.path)) is not None]
        with trio.move_on_after(CATCH_UP_S):
            for followed, reader in known:
                followed.invalidate()
                reader.look()
            for followed, _ in known:
                await followed.is_current.wait()

    # Following

    def ids_before_loading(self) -> None:
        return None  # the ids of a stream begin with its first page

    def follow(self, room: RoomState) -> bool:
        self._follow(room)
        return True

    def _follow(self, room: RoomState) -> tuple[Followed, Reader]:
        known = self._followed.get(room.path)
        if known is None:
            reader = self._find_reader()
            known = self._followed[room.path] = (Followed(room), reader)
            reader.add(known[0])
            if self.is_full:
                room.holds.add(_HOLD)
        known[0].unused_since = None
        return known

    def _find_reader(self) -> Reader:
        """Return a reader that can follow one more room."""
        if reader := next((reader for reader in self._readers if reader.has_space), None):
            return reader
        if len(self._readers) >= MOST_READERS:
            return min(self._readers, key=attrgetter("key_bytes"))
        reader = Reader(self._node)
        scope = self._readers[reader] = trio.CancelScope()
        self._start(reader, reader.read, scope)
        return reader

    @trio.lowlevel.enable_ki_protection
    async def _sweep(self) -> None:
        """Stop following rooms that have been empty for a while, and end readers without rooms."""
        while True:
            await trio.sleep(UNUSED_S / 4)
            now = trio.current_time()
            for followed, reader in list(self._followed.values()):
                if followed.waiters or not followed.room.is_idle:
                    followed.unused_since = None
                elif followed.unused_since is None:
                    followed.unused_since = now
                elif now - followed.unused_since > UNUSED_S:
                    reader.remove(followed)
                    self._forget(followed.room)
            for reader in [reader for reader in self._readers if not reader.followed]:
                # Only a worker that is away shows when it is back.
                if len(self._readers) > 1 and (reader not in self._away or self._publisher in self._away):
                    self._readers.pop(reader).cancel()
                    self._away.discard(reader)

    def _forget(self, room: RoomState) -> None:
        del self._followed[room.path]
        current_loop().slow.unblock(room, _HOLD)
        room.reset()

    async def prepare(self, room: RoomState, since: MessageId | None = None) -> Refusal | None:
        if refusal := self._refuse_room(room.path, self._followed):
            return refusal
        followed, reader = self._follow(room)
        if followed.is_loaded and not followed.is_doubtful(since):
            return None
        followed.waiters += 1
        try:
            with trio.move_on_after(OPEN_TIMEOUT_S):
                if followed.is_doubtful(since):
                    await trio.sleep_until(followed.looked_at + LOOK_EVERY_S)
                if followed.is_doubtful(since) and followed.looked_at + LOOK_EVERY_S <= trio.current_time():
                    followed.invalidate()
                    reader.look()
                await followed.is_current.wait()
        finally:
            followed.waiters -= 1
        if followed.problem:
            return Refusal(502, "backplane", "This room can't be read; the server's log says why.")
        return None if followed.is_current.is_set() else AWAY
