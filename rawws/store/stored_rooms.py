"""Rooms over a store: what is published goes into it, and then to the readers.

::

    peers ──▶ take ───▶ the committer ══ a commit of all that waits ══▶ the engine
                              ║                                           │
    peers ◀── the room's log ◀╝            a room that somebody opens ◀───┘

So nobody is told of a message that isn't as safe as the store's mode says, and a room's order is that of its numbers in
the store. The log in memory has the same messages as the store: all that the room's history keeps. A room is loaded
when somebody opens it, and unloaded when nobody has used it for a while.
"""

from __future__ import annotations

import logging
import math
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from typing import Any

import trio

from rawws import logs
from rawws.broadcast.message_ids import MessageId
from rawws.broadcast.node_answers import Gathered
from rawws.broadcast.outbox import Outgoing
from rawws.broadcast.stored_ids import StoredIds
from rawws.errors import RETRY_SOON, PublishError, Refusal
from rawws.relay.backplane import AWAY, check_key
from rawws.relay.loop import current_loop
from rawws.relay.room_state import RoomState
from rawws.store.committer import Committer
from rawws.store.engine import StoreError, StoreFull, StoreLimit, StoreUnfit
from rawws.store.entries import Append, Clear, Keep
from rawws.store.loaded_room import Committed, LoadedRoom, broadcast, read_history
from rawws.store.waiting import Result, Waiting
from rawws.wire.frames import count_frames, encode_message
from rawws.wire.trace import FAULT

# A client waits for at most this time for a room that is being loaded, and an operator for a history to be cleared.
PATIENCE_S = 5.0
# A room that nobody uses stays in memory for this time, since somebody may be about to open it.
UNUSED_S = 5.0
# The store is told this often which rooms are in use, if it has to be: that is a commit.
KEEP_EVERY_S = 60.0
# At most this many rooms are read at a time.
READERS = 4
# Rooms that are remembered until the store is told that they have been used.
MOST_USED = 10_000
_HOLD = "store"

FULL = Refusal(507, "store_full", "The server has no space left for messages; try again later.", RETRY_SOON)
TROUBLE = Refusal(503, "store_trouble", "The server can't store messages just now; try again.", RETRY_SOON)
BROKEN = Refusal(
    503, "store_broken", "The server can't store messages until it is started again; try again later.", RETRY_SOON
)
BUSY = Refusal(503, "store_busy", "More messages wait for the server's disk than it keeps; try again.", RETRY_SOON)
TOO_LARGE = Refusal(413, "store_message", "This message is too large for the server's store (--store-bytes).")
UNREADABLE = Refusal(503, "store_unreadable", "This room can't be read; the server's log says why.", RETRY_SOON)


class StoredRooms:
    """The backplane of a hub whose rooms are stored on this machine. `run` has to be running."""

    def __init__(
        self,
        committer: Committer,
        refuse_room: Callable[[str, Collection[str]], Refusal | None],
        most_rooms: int = 1 << 62,
    ) -> None:
        """``refuse_room`` returns why no room can be added besides the given ones, or None.

        There are ``most_rooms`` in the store, or more if a program publishes in further ones.
        """
        self.committer = committer
        self._engine = committer.engine
        self._refuse_room = refuse_room
        self._most_rooms = most_rooms
        sentence = f"The server's store has as many rooms as it may (--store-rooms {most_rooms}); try again later."
        self._too_many_rooms = Refusal(503, "store_rooms", sentence, RETRY_SOON)
        self._used: dict[str, None] = {}  # rooms that are unloaded, and are to be kept in the store
        self._keep_at = -math.inf
        self._loaded: dict[str, LoadedRoom] = {}
        self._to_send: dict[LoadedRoom, None] = {}  # the rooms of a commit
        self._posts: dict[Outgoing, Waiting] = {}
        self._limiter = trio.CapacityLimiter(READERS)
        self._nursery: trio.Nursery | None = None
        committer.on_change.append(self._hold_or_release)
        committer.on_commit.append(self._send)

    def __repr__(self) -> str:
        return f"<StoredRooms {self._engine.description} loaded={len(self._loaded)} waiting={self.waiting}>"

    @trio.lowlevel.enable_ki_protection
    async def run(self) -> None:
        """Load and unload rooms until cancelled. The committer runs apart from this."""
        memory = current_loop().memory
        memory.extra_usage.add(self._held_bytes)
        try:
            async with trio.open_nursery() as self._nursery:
                for each in self._loaded.values():
                    self._load_soon(each)
                await self._sweep()
        finally:
            self._nursery = None
            memory.extra_usage.discard(self._held_bytes)

    def _held_bytes(self) -> int:
        return sum(each.held_bytes for each in self._loaded.values()) + sum(map(sys.getsizeof, self._used))

    # The state

    @property
    def trouble(self) -> str:
        """The reason why nothing can be stored at present, without the path of the store; empty if something can."""
        committer = self.committer
        if committer.trouble is None:
            return ""
        if committer.is_broken:
            return "nothing can be stored until the server is started again"
        match committer.trouble:
            case StoreLimit():
                reason = "the store has as many bytes as it may (--store-bytes)"
            case StoreFull():
                reason = "the disk is full"
            case _:
                reason = "the disk reports an error"
        return f"nothing can be stored: {reason}"

    @property
    def loaded_rooms(self) -> int:
        """The number of rooms in memory."""
        return len(self._loaded)

    @property
    def is_away(self) -> bool:
        return self.committer.trouble is not None

    @property
    def is_full(self) -> bool:
        return self.committer.is_held and not self.refuses

    @property
    def refuses(self) -> bool:
        return self.committer.is_broken

    @property
    def refusal(self) -> Refusal | None:
        committer = self.committer
        if committer.trouble is None:
            return BUSY if committer.is_full else None
        if committer.is_broken:
            return BROKEN
        return FULL if isinstance(committer.trouble, StoreFull) else TROUBLE

    @property
    def waiting(self) -> int:
        return self.committer.waiting

    async def ready(self) -> None:
        await self.committer.ready()

    async def flush(self) -> None:
        await self.committer.flush()

    def _hold_or_release(self) -> None:
        is_held = self.committer.is_held
        for each in list(self._loaded.values()):
            if is_held:
                each.room.holds.add(_HOLD)
                if self.refuses:
                    each.room.released.unpark_all()  # programs, which get an error; peers stay held
            elif _HOLD in each.room.holds:
                current_loop().slow.unblock(each.room, _HOLD)

    def close(self) -> None:
        """Forget all rooms in memory, since what is published in them later is not stored."""
        for each in list(self._loaded.values()):
            if not len(each.room):
                each.room.end_history()
                self._unload(each)

    # Publishing

    def _check(self, key: str | None) -> None:
        check_key(key)
        if self.committer.is_broken:
            raise PublishError(f"nothing is published, since nothing can be stored: {self.committer.trouble}")

    def take(self, room: RoomState, frames: Sequence[bytes | bytearray], sender: int, key: str | None = None) -> int:
        """Raises `PublishError` in a program's call while the store is broken. Peers are held back then."""
        self._check(key)
        messages = count_frames(frames, max(map(len, frames)))
        known = self._known(room.path)
        entry = Append(room.path, b"".join(frames), messages, room.settings.history, key, known=known)
        more = 0 if len(frames) == 1 else len(entry.frames)  # the same object if it is one
        self.committer.put(entry, partial(self._note, frames, sender, entry), more)
        return messages

    def publish(self, message: Outgoing) -> None:
        """Raises `PublishError` while the store is broken, as `take` does."""
        self._check(message.key)
        frames: list[bytes | bytearray] = []
        encode_message(message.opcode, message.payload, frames)
        path = message.path
        known, most_rooms = self._known(path), self._most_rooms - self._reserved(path)
        once, digest = message.once, message.digest
        entry = Append(path, b"".join(frames), 1, message.history, message.key, once, digest, known, most_rooms)
        self._posts[message] = self.committer.put(entry, partial(self._note_post, message, frames, entry))

    def _known(self, path: str) -> tuple[str, int] | None:
        loaded = self._loaded.get(path)
        return None if loaded is None else loaded.known

    def _reserved(self, path: str) -> int:
        """Return how many rooms besides this one may come into the store, since clients have been let into them."""
        if self._engine.usage.rooms + len(self._loaded) < self._most_rooms:
            return 0  # it makes no difference
        return sum(each.is_new for each in self._loaded.values() if each.room.path != path)

    def withdraw(self, message: Outgoing) -> bool:
        return self.committer.withdraw(self._posts[message]) and self._posts.pop(message) is not None

    def _note_post(self, message: Outgoing, frames: Sequence[bytes | bytearray], entry: Append, result: Result) -> None:
        del self._posts[message]
        message.is_done = True
        if isinstance(result, StoreError):
            message.problem = str(result)
            message.refusal = TOO_LARGE if isinstance(result, StoreUnfit) else None
        elif result.is_refused:
            message.problem, message.refusal = self._too_many_rooms.sentence, self._too_many_rooms
        elif result.is_reused:
            message.is_reused = True
        else:
            message.stored_as = f"{result.epoch}-{result.first}"
        self._note(frames, message.sender, entry, result)
        if message.on_done is not None:
            message.on_done()

    def _note(self, frames: Sequence[bytes | bytearray], sender: int, entry: Append, result: Result) -> None:
        """Put messages that were committed into the log of their room, if that is in memory."""
        if isinstance(result, StoreError) or not result.is_stored:
            return  # the committer has told of an error
        loaded = self._loaded.get(entry.path)
        if loaded is not None:
            loaded.add(Committed(result.epoch, result.first, frames, sender, entry.key))
            self._to_send[loaded] = None

    def _send(self) -> None:
        """Send the messages of a commit to the readers of all its rooms."""
        to_send, self._to_send = self._to_send, {}
        for each in to_send:
            if each.is_loaded:
                broadcast(each.room)

    async def clear(self, room: RoomState) -> Refusal | None:
        _, number = self._follow(room).ids.next_is(room.log.next_message)
        done = trio.Event()
        results: list[Result] = []

        def note(result: Result) -> None:
            results.append(result)
            done.set()

        waiting = self.committer.put(Clear(room.path, number - 1), note)
        with trio.move_on_after(PATIENCE_S):
            await done.wait()
        if results and not isinstance(results[0], StoreError):
            return None
        self.committer.withdraw(waiting)
        return self.refusal or AWAY

    # Other nodes, of which there are none

    def tell(self, kind: str, body: Mapping[str, Any]) -> None:
        pass

    async def ask(self, kind: str, body: Mapping[str, Any], timeout_s: float) -> Gathered:
        return Gathered()

    # Loading

    def ids_before_loading(self) -> StoredIds:
        return StoredIds()

    def follow(self, room: RoomState) -> bool:
        """Load a room if need be, beside the loop. `prepare` has done so for all but a program's joins."""
        loaded = self._follow(room)
        self._load_soon(loaded)
        return loaded.is_loaded

    def _follow(self, room: RoomState) -> LoadedRoom:
        loaded = self._loaded.get(room.path)
        if loaded is None:
            loaded = self._loaded[room.path] = LoadedRoom(room)
            if self.committer.is_held:
                room.holds.add(_HOLD)
        loaded.unused_since = None
        return loaded

    async def prepare(self, room: RoomState, since: MessageId | None = None) -> Refusal | None:
        if refusal := self._refuse_room(room.path, self._loaded):
            return refusal
        loaded = self._follow(room)
        if loaded.lacks(since):
            loaded.unload()
        if not loaded.is_loaded and (refusal := await self._wait_until_loaded(loaded)):
            return refusal
        if loaded.is_new and self._engine.usage.rooms + self._reserved(room.path) >= self._most_rooms:
            if not loaded.waiters and room.is_idle and self._loaded.get(room.path) is loaded:
                self._unload(loaded)  # it has no place in the store
            return self._too_many_rooms
        return None

    async def _wait_until_loaded(self, loaded: LoadedRoom) -> Refusal | None:
        self._load_soon(loaded)
        loaded.waiters += 1
        try:
            with trio.move_on_after(PATIENCE_S):
                await loaded.is_settled.wait()
        finally:
            loaded.waiters -= 1
        if loaded.problem:
            return UNREADABLE
        return None if loaded.is_loaded else AWAY

    def _load_soon(self, loaded: LoadedRoom) -> None:
        if self._nursery is None or loaded.is_loading or loaded.is_loaded:
            return  # `run` does it when it begins
        loaded.is_loading, loaded.problem = True, ""
        if loaded.is_settled.is_set():
            loaded.is_settled = trio.Event()
        self._nursery.start_soon(self._load, loaded)

    @trio.lowlevel.enable_ki_protection
    async def _load(self, loaded: LoadedRoom) -> None:
        try:
            page = await trio.to_thread.run_sync(
                read_history, self._engine, loaded.room, limiter=self._limiter, abandon_on_cancel=True
            )
            if loaded.room.joining:
                await self.committer.told()  # of all messages that have been read: some may be for those who join
            loaded.load(page)
        except StoreError as error:
            _complain(loaded.room, error)
            loaded.problem = str(error)
        except Exception:
            logs.server.exception("#%d ! an error in rawws itself, in room %s", logs.SERVER, loaded.room.path)
            loaded.problem = "an error in rawws itself"
        finally:
            if loaded.room.joining and not loaded.is_loaded:
                loaded.load(None)  # its readers get a gap before the next message
            loaded.is_loading = False
            loaded.is_settled.set()

    async def _sweep(self) -> None:
        """Unload the rooms that nobody has used for a while, and keep the others."""
        while True:
            await trio.sleep(UNUSED_S / 4)
            now = trio.current_time()
            if now >= self._keep_at and not self.committer.is_held:
                self._keep_at = now + KEEP_EVERY_S
                self._keep(now)
            for each in list(self._loaded.values()):
                if each.waiters or each.is_loading or not each.room.is_idle:
                    each.unused_since = None
                elif each.unused_since is None:
                    each.unused_since = now
                elif now - each.unused_since > UNUSED_S:
                    self._unload(each)

    def _keep(self, now: float) -> None:
        """Tell the store which rooms have been used, so that it doesn't forget them."""
        used, self._used = self._used, {}
        for each in self._loaded.values():
            if each.is_to_be_kept(now):
                each.kept_at = now
                used[each.room.path] = None
        for path in used:
            self.committer.put(Keep(path))

    def _unload(self, loaded: LoadedRoom) -> None:
        if loaded.is_to_be_kept(trio.current_time()) and len(self._used) < MOST_USED:
            self._used[loaded.room.path] = None
        del self._loaded[loaded.room.path]
        current_loop().slow.unblock(loaded.room, _HOLD)
        loaded.unload()


def _complain(room: RoomState, error: StoreError) -> None:
    logs.server_line(logging.ERROR, FAULT, f"room {room.path} can't be read from the store: {error}")
