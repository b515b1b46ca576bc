"""Following Redis Streams: entries of the streams of many rooms go into their logs.

One blocking read asks for many rooms, but has to name all of them each time, and a thousand rooms take it 2 ms. So a
node has a reader for every 100 rooms: a connection and a task.

To follow another room, the read that waits has to end. Cancelling it would cost the connection. So it also waits for a
stream of the reader's own, its *bell*, and the reader adds an entry there when it wants the read to end.

A reader doesn't trust its place in a stream if it is new to the stream, has been away, or got as many entries as it
asked for. Then it checks the stream and reads on in one step, which is a script, and reports a gap if something may
have been missed (`rawws.broadcast.stream_entries`). It also checks every few seconds, and when our publisher gets an id
that the reader has passed already: a stream that was deleted has started again with lower ids, of which the blocking
read returns nothing.

The script reads one *page* at a time, which is bounded in bytes. Between pages the reader reads the new entries of all
other rooms. So a page never takes long, even of a large stream; nothing is read twice; and no room waits for all of
another.

Failures are separated. An error that Redis raises for a whole call ends the connection, and
`rawws.backplane.connector` handles it. An error that concerns one stream, or an error in rawws itself while it handles
one room, becomes that room's `rawws.backplane.followed.Followed.problem`. An entry that can't be read is skipped.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from operator import attrgetter
from typing import TYPE_CHECKING, Any, TypeVar

import trio

from rawws import logs
from rawws.backplane.connector import TIMEOUT_S
from rawws.backplane.followed import Followed
from rawws.backplane.scripts import READ_PAGE, RING, Page, ms_of
from rawws.backplane.troubles import Refused, concerns_everything, reading, try_out
from rawws.broadcast.message_ids import StreamIds
from rawws.broadcast.stream_entries import (
    BEGINNING,
    HIGHEST,
    PREFIX,
    Break,
    Missed,
    Retention,
    StreamMessage,
    StreamState,
    format_stream_id,
    just_before,
    key_of,
    parse_stream_id,
    path_of,
    read_entry,
)
from rawws.limits import KIB, MIB
from rawws.relay.loop import current_loop
from rawws.relay.room_base import NOBODY
from rawws.relay.room_state import RoomState
from rawws.wire.frames import Opcode, encode_message
from rawws.wire.trace import FAULT

if TYPE_CHECKING:
    from coredis.commands import Script

    from rawws.backplane.connector import Client

ROOMS_PER_READER = 100
# The keys are sent in each read, so a reader has fewer rooms if their names are long.
KEY_BYTES_PER_READER = 16 * KIB
# The most messages of each room that a blocking read returns. There are fewer, down to the least, if they are large.
READ, LEAST_READ = 1000, 2
BLOCK_S = 1.0
BELL_EXPIRY_S = 60
# The bytes of a page, which may exceed them by one entry. A small entry counts as 1 KiB: a thousand take us 10 ms.
PAGE_BYTES = MIB
# If a room's new entries have at most this size, Redis can't have trimmed entries before them.
TRUSTED_BYTES = 16 * MIB
# The least time between two checks of a stream on request: somebody says that it has more, or is readable again.
LOOK_EVERY_S = 0.05
# A room that can't be read is checked at this interval in any case.
PROBLEM_S = 5.0
# Every other room is checked at this interval, a few at a time: is it still the same stream? Each costs Redis 16 µs.
RECHECK_S = 5.0
RECHECKED = 20

Result = TypeVar("Result")


class Reader:
    """Follows the streams of some rooms, on a connection of its own."""

    def __init__(self, node: str) -> None:
        """``node`` is our own name."""
        self.followed: dict[str, Followed] = {}
        self.key_bytes = 0  # of their streams' keys
        self._node = node
        self._something_to_look_at = trio.Event()
        name = os.urandom(6).hex()
        self._bell = f"{PREFIX}bell:{name}"
        self._trial_key = f"{PREFIX}trial:{name}"
        self._last_ring = b"0-0"
        self._most = READ

    @property
    def has_space(self) -> bool:
        return len(self.followed) < ROOMS_PER_READER and self.key_bytes < KEY_BYTES_PER_READER

    def add(self, followed: Followed) -> None:
        self.followed[followed.room.path] = followed
        self.key_bytes += len(key_of(followed.room.path))
        self.look()

    def remove(self, followed: Followed) -> None:
        del self.followed[followed.room.path]
        self.key_bytes -= len(key_of(followed.room.path))

    def _follows(self, followed: Followed) -> bool:
        """Return whether a room is still followed, after a wait."""
        return self.followed.get(followed.room.path) is followed

    def look(self) -> None:
        """Check the streams that need it without delay."""
        self._something_to_look_at.set()

    async def read(self, client: Client, on_works: Callable[[], None]) -> None:
        """Read new entries until this is cancelled. Raises the exception of a command that fails.

        ``on_works`` is called when Redis refuses none of the commands, and has answered the first read.
        """
        with trio.fail_after(TIMEOUT_S):
            await try_out(client, [self._trial_key], reading(self._trial_key))
        self._last_ring = b"0-0"  # so that a Redis which lost the stream, and whose clock is slow, wakes us too
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._wake_blocked_read, client)
            await self._read(client, on_works)

    @trio.lowlevel.enable_ki_protection
    async def _wake_blocked_read(self, client: Client) -> None:
        """End the read that waits, whenever a stream has to be checked.

        A Redis without free memory doesn't accept the bell's entry. Then the read ends within `BLOCK_S` by itself.
        """
        from coredis.exceptions import ResponseError

        script = client.register_script(RING)
        while True:
            await self._something_to_look_at.wait()
            self._something_to_look_at = trio.Event()
            with trio.fail_after(TIMEOUT_S), contextlib.suppress(ResponseError):
                await script([self._bell], [BELL_EXPIRY_S])

    async def _read(self, client: Client, on_works: Callable[[], None]) -> None:
        script = client.register_script(READ_PAGE)  # which is loaded whenever Redis doesn't have it
        self._invalidate(followed for followed in self.followed.values() if followed.is_loaded)  # after being away
        for turn in itertools.count():
            self._invalidate(self._due(trio.current_time()))
            if behind := self._behind():
                # In every second turn, the room that has waited for longest comes first. In the others, the order
                # stays, since many rooms are done soon.
                if turn % 2:
                    behind.sort(key=attrgetter("looked_at"))
                await self._read_page(client, script, behind)
            on_works()
            received = 0
            asked = dict(self.followed)
            for key, entries in (await self._read_what_comes(client)).items():
                if key == self._bell.encode("ascii"):
                    self._last_ring = entries[-1].identifier
                    continue
                followed = asked[path_of(bytes(key).decode())]
                if self._follows(followed):
                    received += self._handle(followed, partial(self._take_in, followed, entries)) or 0
            if received > PAGE_BYTES:
                self._most = max(LEAST_READ, self._most // 8)
            elif received < PAGE_BYTES // 8:
                self._most = min(READ, 2 * self._most)

    def _due(self, now: float) -> list[Followed]:
        """Return the rooms to check now: those that can't be read, and a few of the others."""
        of_old = [each for each in self.followed.values() if each.is_loaded and each.looked_at < now - RECHECK_S]
        of_old.sort(key=attrgetter("looked_at"))
        in_need = [each for each in self.followed.values() if each.problem and each.looked_at < now - PROBLEM_S]
        return of_old[:RECHECKED] + in_need

    def _handle(self, followed: Followed, work: Callable[[], Result]) -> Result | None:
        """Do work that concerns one room. If it fails, only this room can't be read for a while."""
        try:
            return work()
        except Exception as error:  # nothing that a stream contains should cause one
            failure = f"{type(error).__name__}: {error}"
            if failure != followed.failure:
                logs.server.exception("#%d ! an error in rawws itself, in room %s", logs.SERVER, followed.room.path)
            followed.failure = failure
            followed.tail = None  # it may have a part of a page
            followed.problem = "an error in rawws itself"
            followed.looked_at = trio.current_time()
            followed.is_current.set()
            return None

    def _take_in(self, followed: Followed, entries: Iterable[Any]) -> int:
        """Take entries from the blocking read. Returns the bytes of their payloads."""
        messages = [self._understand(followed, entry.identifier, entry.field_values) for entry in entries]
        size = sum(len(message.payload) for message in messages)
        if len(messages) == self._most or size > TRUSTED_BYTES or followed.place.is_gone:
            followed.invalidate()
        else:
            self._take(followed, messages)
            _broadcast(followed.room)
        return size

    @staticmethod
    def _understand(followed: Followed, identifier: bytes, fields: Mapping[bytes, bytes]) -> StreamMessage:
        """Parse an entry. A room's first entry that can't be read is logged."""
        try:
            return read_entry(identifier, fields)
        except Exception:  # nothing that an entry contains should cause one
            if not followed.has_odd_entries:
                message = "#%d ! entry %s of room %s can't be read; it is passed over, and so are others like it"
                logs.server.exception(message, logs.SERVER, identifier.decode(errors="replace"), followed.room.path)
            followed.has_odd_entries = True
            return StreamMessage(parse_stream_id(identifier), Opcode.BINARY, b"", None, None, is_understood=False)

    def _behind(self) -> list[Followed]:
        return [followed for followed in self.followed.values() if not followed.is_current.is_set()]

    @staticmethod
    def _invalidate(some: Iterable[Followed]) -> None:
        for followed in some:
            followed.invalidate()

    async def _read_what_comes(self, client: Client) -> dict[Any, Any]:
        """Read new entries of the streams that are current. Wait for some, unless other streams have to be read."""
        from coredis.exceptions import WrongTypeError

        places: dict[Any, Any] = {self._bell: self._last_ring}
        for path, followed in self.followed.items():
            if not followed.problem and followed.is_current.is_set():
                places[key_of(path)] = format_stream_id(followed.place.last)
        block = None if self._behind() else int(BLOCK_S * 1000)
        with trio.fail_after(TIMEOUT_S + BLOCK_S):
            try:
                return dict(await client.xread(places, count=self._most, block=block) or {})
            except WrongTypeError:  # the checks will find the stream
                self._invalidate(self.followed.values())
                return {}

    async def _read_page(self, client: Client, script: Script[bytes], behind: list[Followed]) -> None:
        """Read a page of some streams that are not current."""
        arguments: list[str | int] = [PAGE_BYTES]
        for followed in behind:
            arguments += self._range_of(followed)
        keys = [key_of(followed.room.path) for followed in behind]
        with trio.fail_after(TIMEOUT_S):
            answer: Any = await script(keys, arguments)
        time, *pages = answer
        now_ms = ms_of(time)
        for followed, page in zip(behind, pages, strict=False):  # the other streams come next time
            if not self._follows(followed):
                continue
            if isinstance(page, bytes) and concerns_everything(problem := page.decode(errors="replace")):
                raise Refused(problem)
            followed.looked_at, followed.redis_ms = trio.current_time(), now_ms
            if isinstance(page, bytes) and b"no such key" not in page:
                self._note_problem(followed, problem)
            else:
                self._handle(followed, partial(self._read_on, followed, page, now_ms))

    @staticmethod
    def _range_of(followed: Followed) -> tuple[str | int, ...]:
        """Return the script's arguments for a room: the range to be read, and the two landmarks."""
        place = followed.place
        if not followed.is_loaded:
            tail = followed.tail_to_load()
            before = "+" if tail.before is None else f"({format_stream_id(tail.before)}"
            return ("XREVRANGE", before, "-", tail.wanted, *map(format_stream_id, (BEGINNING, BEGINNING)))
        landmarks = map(format_stream_id, place.landmarks)
        if place.last == HIGHEST:  # nothing can follow, and Redis refuses a range after it
            return ("XRANGE", "-", "+", 0, *landmarks)
        return ("XRANGE", f"({format_stream_id(place.last)}", "+", READ, *landmarks)

    @staticmethod
    def _note_problem(followed: Followed, problem: str) -> None:
        path = followed.room.path
        if followed.problem != problem:
            sentence = f"room {path} can't be read: its key {key_of(path)}: {problem}"
            logs.server_line(logging.ERROR, FAULT, sentence)
        followed.problem = problem
        followed.is_current.set()

    def _read_on(self, followed: Followed, page: Any, now_ms: int) -> None:
        """Process a page of a stream, or the answer that there is no such stream."""
        state, messages, is_last = StreamState(), list[StreamMessage](), True
        if not isinstance(page, bytes):
            state, entries, is_last = Page.of(page)
            messages = [self._understand(followed, given, fields) for given, fields in entries]
        if not followed.is_loaded:
            self._load(followed, state, messages, now_ms, is_last=is_last)
        else:
            room, place = followed.room, followed.place
            before = place.last
            if found := place.compare(state, now_ms, Retention.of(room.settings.history).expiry_s * 1000):
                self._broadcast_gap(followed, found)
            if place.last != before:  # this page begins at the old place
                messages, is_last = [], not state.length or place.last == state.newest
            followed.ids.deleted = state.deleted
            self._take(followed, messages)
            place.note_look(state, is_last=is_last)
            _broadcast(room)
            if is_last:
                followed.is_current.set()
        followed.problem = ""

    @staticmethod
    def _broadcast_gap(followed: Followed, found: Break) -> None:
        """Send a gap to the room's readers, and log it."""
        room = followed.room
        message = f"messages of room {room.path} may have been missed after {room.last_id}: {found.why.value}"
        logs.server_line(logging.ERROR, FAULT, message)
        gap = room.record_gap(partial(followed.ids.restart, found.after))
        current_loop().sending.notify_gap(room, gap)
        room.trim()

    def _load(
        self, followed: Followed, state: StreamState, page: Sequence[StreamMessage], now_ms: int, *, is_last: bool
    ) -> None:
        """Load the room's history, as far as the stream has it. This takes effect once all of it has been read."""
        room, tail, place = followed.room, followed.tail_to_load(), followed.place
        is_first = tail.end is None
        tail.add(state, page, now_ms, is_last=is_last)
        if not tail.is_whole:
            return
        assert tail.end is not None
        room.set_ids(StreamIds(tail.floor))
        place.last = tail.floor
        followed.is_loaded, followed.tail = True, None
        followed.ids.deleted = state.deleted
        self._take(followed, tail.messages[::-1])
        place.note_look(tail.end, is_last=True)
        _broadcast(room)
        if is_first:  # otherwise new entries may have come meanwhile
            followed.is_current.set()

    def _take(self, followed: Followed, messages: Iterable[StreamMessage]) -> None:
        """Put messages of a stream into the room's log."""
        room, place, ids = followed.room, followed.place, followed.ids
        for message in messages:
            place.pass_over(message.id, renews=message.by is not None or not message.is_understood)
            if not message.is_understood or followed.duplicates.has(message.by):
                continue
            if message.id <= ids.last:  # an earlier stream had expired
                _broadcast(room)
                self._broadcast_gap(followed, Break(Missed.ANEW, just_before(message.id)))
            frames: list[bytes | bytearray] = []
            encode_message(message.opcode, message.payload, frames)
            ids.add(*message.id)
            by = message.by
            room.add(frames, by.connection if by is not None and by.node == self._node else NOBODY, message.key)


def _broadcast(room: RoomState) -> None:
    if len(room):
        current_loop().sending.broadcast(room)
    else:
        room.seal_all()
