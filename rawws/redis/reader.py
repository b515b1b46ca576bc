"""Following Redis Streams: what comes in the streams of many rooms goes into their logs.

One blocking read asks for many rooms, but names all of them each time; a thousand of them take it 2 ms. So a node has a
reader, which is a connection and a task, for every 250 rooms.

To follow another room the read that waits has to end. It also waits for a stream of the reader's own, its *bell*, to
which the reader adds when it wants to be woken: a read that is cancelled would cost its connection.

A reader that has been away, or gets as much as it asked for, doesn't trust its place in the streams: it looks at these
and reads on in one transaction, and says so if something may have been missed (`rawws.wire.stream_entries`).
"""

from __future__ import annotations

import logging
import os
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import trio

from rawws import logs
from rawws.redis.connector import TIMEOUT_S
from rawws.wire.frames import encode_message
from rawws.wire.message_ids import MessageId, StreamIds
from rawws.wire.stream_entries import (
    BEGINNING,
    StreamId,
    StreamPlace,
    StreamState,
    format_stream_id,
    just_before,
    key_of,
    parse_stream_id,
    path_of,
    read_entry,
)
from rawws.wire.trace import FAULT

if TYPE_CHECKING:
    from coredis.response.types import StreamEntry

    from rawws.redis.connector import Client
    from rawws.room import Room

ROOMS_PER_READER = 100
# One read brings so many messages of each room at most.
READ = 1000
BLOCK_S = 1.0
BELL_EXPIRY_S = 60
# One transaction looks at so many streams at most.
LOOK_AT = 100
# A room that nobody is in any more is followed for a little longer, since somebody may be on the way.
UNUSED_S = 5.0


@dataclass(eq=False, slots=True)
class Followed:
    """A room whose stream is followed."""

    room: Room
    place: StreamPlace = field(default_factory=StreamPlace)
    is_loaded: bool = False
    is_current: trio.Event = field(default_factory=trio.Event)  # the log has all that the stream had when we looked
    unused_since: float | None = None
    problem: str = ""  # why it can't be read

    def is_behind(self, since: MessageId) -> bool:
        """Whether somebody has seen an id elsewhere that isn't here yet."""
        return since.epoch.isdigit() and (int(since.epoch), since.number) > self.place.last

    def doubt(self) -> None:
        """Look at the stream again before anything else is read from it."""
        self.problem = ""
        if self.is_current.is_set():
            self.is_current = trio.Event()


class Reader:
    """Follows the streams of some rooms, on a connection of its own."""

    def __init__(self, expiry_s: float, sender_of: Callable[[bytes], int], forget: Callable[[Room], None]) -> None:
        """A stream is gone ``expiry_s`` after its last entry; ``sender_of`` says which of our connections an entry is
        of; ``forget`` is told of a room that is not followed any more."""
        self.followed: dict[str, Followed] = {}
        self._expiry_ms = int(expiry_s * 1000)
        self._sender_of = sender_of
        self._forget = forget
        self._something_to_look_at = trio.Event()
        self._bell = f"rawws-bell:{os.urandom(6).hex()}"
        self._last_ring = b"0-0"

    @property
    def has_space(self) -> bool:
        return len(self.followed) < ROOMS_PER_READER

    def add(self, followed: Followed) -> None:
        self.followed[followed.room.path] = followed
        self.look()

    def look(self) -> None:
        """Look at once at what is to be looked at."""
        self._something_to_look_at.set()

    async def read(self, client: Client) -> bool:
        """Read what comes, again and again. Raises what Redis has against it."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._ring, client)
            await self._read(client)
        return True

    async def _ring(self, client: Client) -> None:
        """End the read that waits, whenever there is something to look at."""
        while True:
            await self._something_to_look_at.wait()
            self._something_to_look_at = trio.Event()
            with trio.fail_after(TIMEOUT_S):
                async with client.pipeline(transaction=True) as pipe:
                    pipe.delete([self._bell])
                    pipe.xadd(self._bell, {"": ""})
                    pipe.expire(self._bell, BELL_EXPIRY_S)

    async def _read(self, client: Client) -> None:
        for followed in self.followed.values():
            if followed.is_loaded:
                followed.doubt()  # we have been away
        while True:
            self._forget_unused()
            await self._catch_up(client)
            for key, entries in (await self._wait_for_more(client)).items():
                if key == self._bell.encode("ascii"):
                    self._last_ring = entries[-1].identifier
                    continue
                followed = self.followed[path_of(bytes(key).decode())]
                if len(entries) == READ:
                    followed.doubt()
                else:
                    self._take(followed, entries)
                    followed.room.spread()

    async def _wait_for_more(self, client: Client) -> dict[Any, Any]:
        places: dict[Any, Any] = {self._bell: self._last_ring}
        for path, followed in self.followed.items():
            if not followed.problem:
                places[key_of(path)] = format_stream_id(followed.place.last)
        with trio.fail_after(TIMEOUT_S + BLOCK_S):
            return dict(await client.xread(places, count=READ, block=int(BLOCK_S * 1000)) or {})

    async def _catch_up(self, client: Client) -> None:
        """Read on in those streams of which it isn't known how far behind we are."""
        from coredis.exceptions import WrongTypeError

        while behind := [followed for followed in self.followed.values() if not followed.is_current.is_set()]:
            some = behind[:LOOK_AT]
            with trio.fail_after(TIMEOUT_S):
                async with client.pipeline(transaction=True, raise_on_error=False) as pipe:
                    time = pipe.time()
                    asked = [(pipe.xinfo_stream(key_of(each.room.path)), _ask(pipe, each)) for each in some]
                now_ms = int((await time).timestamp() * 1000)
                for followed, (info, entries) in zip(some, asked, strict=True):
                    try:
                        self._read_on(followed, await _state_of(info), await entries, now_ms)
                    except WrongTypeError as error:
                        followed.problem = str(error)
                        followed.is_current.set()
                        told = f"room {followed.room.path} can't be read: its key {key_of(followed.room.path)}: {error}"
                        logs.line(logs.server, logging.ERROR, logs.SERVER, FAULT, told)

    def _read_on(self, followed: Followed, state: StreamState, entries: Sequence[StreamEntry], now_ms: int) -> None:
        room, place = followed.room, followed.place
        if not followed.is_loaded:
            self._load(followed, state, entries[::-1], now_ms)
        else:
            missed = place.compare(state, now_ms, self._expiry_ms)
            if missed is not None:
                told = f"messages of room {room.path} may have been missed behind {room.last_id}: {missed.value}"
                logs.line(logs.server, logging.ERROR, logs.SERVER, FAULT, told)
                room.leave_out(just_before(state.oldest))
            self._take(followed, entries)
            room.spread()
            if len(entries) == READ:
                return
        place.count = state.added
        followed.is_current.set()

    def _load(self, followed: Followed, state: StreamState, newest: Sequence[StreamEntry], now_ms: int) -> None:
        """Begin with what the stream has of the room's history."""
        history = followed.room.settings.history
        # The place before the first that we have: what was given to somebody who came before there was anything.
        floor = BEGINNING if state.added == state.length else just_before(state.oldest)
        if not history.messages or len(followed.room):  # or else those who are here would get what was before them
            newest, floor = (), state.newest
        oldest_ms = now_ms - history.max_age_s * 1000
        while newest and (len(newest) > history.messages or _id_of(newest[0])[0] < oldest_ms):
            floor = _id_of(newest[0])
            newest = newest[1:]
        followed.room.begin_with(StreamIds(floor))
        followed.place.last = floor
        self._take(followed, newest)
        followed.room.spread()
        followed.is_loaded = True

    def _take(self, followed: Followed, entries: Sequence[StreamEntry]) -> None:
        """Put entries of a stream into the room's log."""
        room, place = followed.room, followed.place
        ids = room.log.ids
        assert isinstance(ids, StreamIds)
        for entry in entries:
            message = read_entry(entry.identifier, entry.field_values)  # type: ignore[arg-type]
            place.pass_over(message.id)
            ids.add(*max(message.id, ids.last))
            frames: list[bytes | bytearray] = []
            encode_message(message.opcode, message.payload, frames)
            room.add(frames, self._sender_of(message.by), message.key)

    def _forget_unused(self) -> None:
        """Follow those rooms no longer that nobody has been in for a while."""
        now = trio.current_time()
        for path, followed in list(self.followed.items()):
            if not followed.is_loaded or not followed.room.is_deserted:
                followed.unused_since = None
            elif followed.unused_since is None:
                followed.unused_since = now
            elif now - followed.unused_since > UNUSED_S:
                del self.followed[path]
                self._forget(followed.room)


def _ask(pipe: Any, followed: Followed) -> Awaitable[Sequence[StreamEntry]]:
    key = key_of(followed.room.path)
    asked: Awaitable[Sequence[StreamEntry]]
    if followed.is_loaded:
        asked = pipe.xrange(key, start=f"({format_stream_id(followed.place.last)}", end="+", count=READ)
    else:
        asked = pipe.xrevrange(key, count=followed.room.settings.history.messages + 1)
    return asked


def _id_of(entry: StreamEntry) -> StreamId:
    assert isinstance(entry.identifier, bytes), "nothing is decoded"
    return parse_stream_id(entry.identifier)


async def _state_of(info: Awaitable[Any]) -> StreamState:
    """Return what XINFO STREAM tells; that there is no such stream is an error to it."""
    from coredis.exceptions import ResponseError

    try:
        told = await info
    except ResponseError as error:
        if "no such key" not in str(error):
            raise
        return StreamState()
    first = told["first-entry"]
    return StreamState(
        told["length"],
        told.get("entries-added") or told["length"],
        BEGINNING if first is None else _id_of(first),
        parse_stream_id(told["last-generated-id"]),
    )
