"""Following Redis Streams: what comes in the streams of many rooms goes into their logs.

One blocking read asks for many rooms, but names all of them each time; a thousand of them take it 2 ms. So a node has a
reader, which is a connection and a task, for every 100 rooms.

To follow another room the read that waits has to end. It also waits for a stream of the reader's own, its *bell*, to
which the reader adds when it wants to be woken: a read that is cancelled would cost its connection.

A reader that is new to a stream, has been away, or gets as much as it asked for, doesn't trust its place: it looks at
the stream and reads on in one step, a script, and says so if something may have been missed
(`rawws.wire.stream_entries`). It also does so every few seconds, and when our publisher gets an id that the reader has
passed already: the blocking read returns nothing of a stream that was deleted and has started again with lower ids. It
does so a *page* at a time, which is bounded in bytes, and in between it reads what
has come in all other rooms. So a page is there in time however much a stream has, what has been read is kept, and no
room waits for the whole of another.

Failures are kept apart. An error that Redis raises for a whole call ends the connection, and `rawws.redis.connector`
deals with it. An error that concerns one stream, and an error in rawws itself while it handles one room, is that room's
`Followed.problem`. An entry that can't be read is passed over.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from operator import attrgetter
from typing import TYPE_CHECKING, Any, TypeVar

import trio

from rawws import logs
from rawws.limits import KIB, MIB
from rawws.redis.connector import TIMEOUT_S
from rawws.redis.troubles import Refused, concerns_everything, reading, try_out
from rawws.room_state import NOBODY
from rawws.wire.broadcast_log import History
from rawws.wire.frames import Opcode, encode_message
from rawws.wire.message_ids import MessageId, StreamIds
from rawws.wire.outbox import Outgoing
from rawws.wire.stream_entries import (
    BEGINNING,
    HIGHEST,
    PREFIX,
    Break,
    Keeping,
    Missed,
    Repeated,
    StreamMessage,
    StreamPlace,
    StreamState,
    StreamTail,
    format_stream_id,
    just_before,
    key_of,
    parse_stream_id,
    path_of,
    read_entry,
)
from rawws.wire.trace import FAULT

if TYPE_CHECKING:
    from coredis.commands import Script

    from rawws.redis.connector import Client
    from rawws.room_state import RoomState

ROOMS_PER_READER = 100
# Their keys are sent in each read, so those with long names get a reader for fewer.
KEY_BYTES_PER_READER = 16 * KIB
# The blocking read brings so many messages of each room at most; fewer, down to the least, if they are large.
READ, LEAST_READ = 1000, 2
BLOCK_S = 1.0
BELL_EXPIRY_S = 60
# The memory of a room that is followed (measured).
FOLLOWED_BYTES = 700
# So much is in a page, and an entry more at most. A small entry counts as a KiB: a thousand take us 10 ms.
PAGE_BYTES = MIB
# What came in one room without being asked for page by page is so little that nothing was trimmed before it.
TRUSTED_BYTES = 16 * MIB
# A stream isn't looked at more often than this for who says that there is more in it, or that it can be read again.
LOOK_EVERY_S = 0.05
# No node can have a message whose id is later than Redis's clock by more than this.
AHEAD_MS = 1000
# A room that can't be read is looked at again so often in any case.
PROBLEM_S = 5.0
# Every other room is checked at this interval, a few at a time: is it still the same stream? It costs Redis 16 µs each.
RECHECK_S = 5.0
RECHECKED = 20

# Returns the time, and for as many streams as fit a page, at least one: the answer of XINFO STREAM without its two
# entries; whether the stream has one of its landmarks; entries; whether there may be more; and its time of expiry. For
# a stream that can't be read, the error replaces all of these. KEYS: the streams. ARGV: the bytes of a page, and for
# each stream "XRANGE" or "XREVRANGE", the two ends of the range, how many entries are wanted, and the ids of the two
# landmarks.
READ_PAGE = """
local budget, told, place = tonumber(ARGV[1]), {redis.call('TIME')}, 2
local function take(entry)
  local size = 0
  for _, field in ipairs(entry[2]) do size = size + #field end
  budget = budget - math.max(size, 1024)
end
for _, stream in ipairs(KEYS) do
  local info = redis.pcall('XINFO', 'STREAM', stream)
  if info.err then
    told[#told + 1] = info.err
  else
    local state = {}
    for at = 1, #info, 2 do state[info[at]] = info[at + 1] end
    local first, entries, step, problem = state['first-entry'], {}, 1, nil
    local range, from, most = ARGV[place], ARGV[place + 1], tonumber(ARGV[place + 3])
    local more, has = most > 0, 0
    if first then
      take(first)
      take(state['last-entry'])
    end
    for at = place + 4, place + 5 do
      if first and has == 0 and ARGV[at] ~= '0-0' then
        if ARGV[at] == first[1] or ARGV[at] == state['last-entry'][1] then
          has = 1
        else
          local some = redis.call('XRANGE', stream, ARGV[at], ARGV[at])
          if some[1] then
            has = 1
            take(some[1])
          end
        end
      end
    end
    while more and #entries < most and (budget > 0 or (#told == 1 and #entries == 0)) do
      step = math.min(step, most - #entries)
      local some = redis.pcall(range, stream, from, ARGV[place + 2], 'COUNT', step)
      if some.err then
        problem = some.err
        break
      end
      more = #some == step
      for _, entry in ipairs(some) do
        entries[#entries + 1] = entry
        from = '(' .. entry[1]
        take(entry)
        if budget <= 0 and entry ~= some[#some] then
          more = true
          break
        end
      end
      step = math.min(2 * step, 100)
    end
    told[#told + 1] = problem or {
      state['length'], state['entries-added'] or state['length'], first and first[1] or '0-0',
      state['last-generated-id'], state['max-deleted-entry-id'] or '0-0', has, entries, more and 1 or 0,
      redis.call('PEXPIRETIME', stream),
    }
  end
  place = place + 6
  if budget <= 0 then
    break
  end
end
return told
"""


# KEYS: the stream that wakes a reader. ARGV: its expiry, in seconds.
RING = """
redis.call('XADD', KEYS[1], 'MAXLEN', '1', '*', '', '')
redis.call('EXPIRE', KEYS[1], ARGV[1])
"""

Result = TypeVar("Result")


@dataclass(eq=False, slots=True)
class Followed:
    """A room whose stream is followed."""

    room: RoomState
    place: StreamPlace = field(default_factory=StreamPlace)
    repeated: Repeated = field(default_factory=Repeated)
    tail: StreamTail | None = None  # what is being loaded
    is_loaded: bool = False
    is_current: trio.Event = field(default_factory=trio.Event)  # the log has all that the stream had when we looked
    looked_at: float = -math.inf
    redis_ms: int = 0  # Redis's time at that moment
    askers: int = 0  # who wait for it to be current
    unused_since: float | None = None
    problem: str = ""  # why it can't be read
    failure: str = ""  # the last error in rawws itself while handling this room, which has been logged
    has_odd_entries: bool = False  # an entry could not be read, which has been logged

    def has_passed(self, message: Outgoing) -> bool:
        """Whether a message of ours got an id that we have passed without reading the message."""
        if not self.is_loaded or message.id is None or message.author is None:
            return False
        return message.id <= self.place.last and not self.repeated.knows(message.author)

    @property
    def held_bytes(self) -> int:
        """The bytes of memory that it takes, besides the room."""
        tail = 0 if self.tail is None else self.tail.held_bytes
        return FOLLOWED_BYTES + self.repeated.held_bytes + tail

    def is_doubtful(self, since: MessageId | None) -> bool:
        """Whether a reader that resumes needs another look at the stream: it is unreadable, or the reader's id isn't
        here.

        Such an id may not be here yet, or be of a stream that has replaced this one. An id of the future is neither.
        """
        if self.problem or since is None or not self.is_loaded or not since.epoch.isdigit():
            return bool(self.problem)
        given, last = (int(since.epoch), since.number), max(self.place.last, self.ids.last)
        if given <= last:
            return self.ids.is_passed(since)
        elapsed_ms = (trio.current_time() - self.looked_at) * 1000
        return given[0] <= max(last[0], self.redis_ms + elapsed_ms + AHEAD_MS)

    @property
    def ids(self) -> StreamIds:
        """The ids of its messages, once it is loaded."""
        ids = self.room.log.ids
        assert isinstance(ids, StreamIds)
        return ids

    def tail_to_load(self) -> StreamTail:
        """Return what has been read of the room's history; nothing, and of none, for a room with somebody in it.

        They would get what was before them.
        """
        if self.tail is None or (len(self.room) and self.tail.history.messages):
            self.tail = StreamTail(History() if len(self.room) else self.room.settings.history)
        return self.tail

    def doubt(self) -> None:
        """Look at the stream again before anything else is read from it."""
        if self.is_current.is_set():
            self.is_current = trio.Event()


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
        """Whether a room is still followed, after something was waited for."""
        return self.followed.get(followed.room.path) is followed

    def look(self) -> None:
        """Look at once at what is to be looked at."""
        self._something_to_look_at.set()

    async def read(self, client: Client, on_works: Callable[[], None]) -> None:
        """Read new entries until this is cancelled. Raises the exception of a command that fails.

        ``on_works`` is called when Redis refuses none of the commands, and has answered the first read.
        """
        with trio.fail_after(TIMEOUT_S):
            await try_out(client, [self._trial_key], reading(self._trial_key))
        self._last_ring = b"0-0"  # a Redis that lost the stream, and whose clock is slow, has to wake us
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._ring, client)
            await self._read(client, on_works)

    @trio.lowlevel.enable_ki_protection
    async def _ring(self, client: Client) -> None:
        """End the read that waits, whenever there is something to look at.

        A Redis that has no memory left takes no bell; the read ends within `BLOCK_S` by itself.
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
        self._doubt(followed for followed in self.followed.values() if followed.is_loaded)  # we have been away
        for turn in itertools.count():
            self._doubt(self._due(trio.current_time()))
            if behind := self._behind():
                if (
                    turn % 2
                ):  # one after the other, since many are soon done; and every other time who has waited longest
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
        """Run work that concerns one room. If it fails, only this room can't be read for a while."""
        try:
            return work()
        except Exception as error:  # nothing that a stream contains should cause one
            failure = f"{type(error).__name__}: {error}"
            if failure != followed.failure:
                logs.server.exception("#%d ! an error in rawws itself, in room %s", logs.SERVER, followed.room.path)
            followed.failure = failure
            followed.tail = None  # it may have half a page
            followed.problem = "an error in rawws itself"
            followed.looked_at = trio.current_time()
            followed.is_current.set()
            return None

    def _take_in(self, followed: Followed, entries: Iterable[Any]) -> int:
        """Take entries that came live. Returns the bytes of their payloads."""
        messages = [self._understand(followed, entry.identifier, entry.field_values) for entry in entries]
        size = sum(len(message.payload) for message in messages)
        if len(messages) == self._most or size > TRUSTED_BYTES or followed.place.is_gone:
            followed.doubt()
        else:
            self._take(followed, messages)
            followed.room.spread()
        return size

    @staticmethod
    def _understand(followed: Followed, identifier: bytes, fields: Mapping[bytes, bytes]) -> StreamMessage:
        """Read an entry. The first one of a room that can't be read is logged."""
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
    def _doubt(some: Iterable[Followed]) -> None:
        for followed in some:
            followed.doubt()

    async def _read_what_comes(self, client: Client) -> dict[Any, Any]:
        """Wait for messages in those streams of which we have all; take what there is, if others are to be read."""
        from coredis.exceptions import WrongTypeError

        places: dict[Any, Any] = {self._bell: self._last_ring}
        for path, followed in self.followed.items():
            if not followed.problem and followed.is_current.is_set():
                places[key_of(path)] = format_stream_id(followed.place.last)
        block = None if self._behind() else int(BLOCK_S * 1000)
        with trio.fail_after(TIMEOUT_S + BLOCK_S):
            try:
                return dict(await client.xread(places, count=self._most, block=block) or {})
            except WrongTypeError:  # which of them it is will be seen
                self._doubt(self.followed.values())
                return {}

    async def _read_page(self, client: Client, script: Script[bytes], behind: list[Followed]) -> None:
        """Read on in some streams of which it isn't known how far behind we are."""
        arguments: list[str | int] = [PAGE_BYTES]
        for followed in behind:
            arguments += self._range_of(followed)
        keys = [key_of(followed.room.path) for followed in behind]
        with trio.fail_after(TIMEOUT_S):
            answer: Any = await script(keys, arguments)
        (seconds, microseconds), *pages = answer
        now_ms = int(seconds) * 1000 + int(microseconds) // 1000
        for followed, page in zip(behind, pages, strict=False):  # the others have their turn next
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
        if place.last == HIGHEST:  # nothing can follow, and Redis refuses a range that begins after it
            return ("XRANGE", "-", "+", 0, *landmarks)
        return ("XRANGE", f"({format_stream_id(place.last)}", "+", READ, *landmarks)

    @staticmethod
    def _note_problem(followed: Followed, problem: str) -> None:
        path = followed.room.path
        if followed.problem != problem:
            told = f"room {path} can't be read: its key {key_of(path)}: {problem}"
            logs.line(logs.server, logging.ERROR, logs.SERVER, FAULT, told)
        followed.problem = problem
        followed.is_current.set()

    def _read_on(self, followed: Followed, page: Any, now_ms: int) -> None:
        """Take a page of a stream, or the answer that there is no such stream."""
        state, messages, is_last = StreamState(), list[StreamMessage](), True
        if not isinstance(page, bytes):
            length, added, oldest, newest, deleted, has_landmark, entries, has_more, expires_ms = page
            ends = parse_stream_id(oldest), parse_stream_id(newest)
            state = StreamState(length, added, *ends, parse_stream_id(deleted), bool(has_landmark), expires_ms)
            messages = [
                self._understand(followed, given, dict(zip(*[iter(fields)] * 2, strict=True)))
                for given, fields in entries
            ]
            is_last = not has_more
        if not followed.is_loaded:
            self._load(followed, state, messages, now_ms, is_last=is_last)
        else:
            room, place = followed.room, followed.place
            before = place.last
            if found := place.compare(state, now_ms, Keeping.of(room.settings.history).expiry_s * 1000):
                self._leave_out(followed, found)
            if place.last != before:  # this page begins at the old place
                messages, is_last = [], not state.length or place.last == state.newest
            followed.ids.deleted = state.deleted
            self._take(followed, messages)
            place.note_look(state, is_last=is_last)
            room.spread()
            if is_last:
                followed.is_current.set()
        followed.problem = ""

    @staticmethod
    def _leave_out(followed: Followed, found: Break) -> None:
        """Send a gap to the room's readers, and log it."""
        room = followed.room
        message = f"messages of room {room.path} may have been missed after {room.last_id}: {found.why.value}"
        logs.line(logs.server, logging.ERROR, logs.SERVER, FAULT, message)
        room.leave_out(found.after)

    def _load(
        self, followed: Followed, state: StreamState, page: Sequence[StreamMessage], now_ms: int, *, is_last: bool
    ) -> None:
        """Begin with what the stream has of the room's history, once all of that has been read."""
        room, tail, place = followed.room, followed.tail_to_load(), followed.place
        is_first = tail.end is None
        tail.add(state, page, now_ms, is_last=is_last)
        if not tail.is_whole:
            return
        assert tail.end is not None
        room.begin_with(StreamIds(tail.floor))
        place.last = tail.floor
        followed.is_loaded, followed.tail = True, None
        followed.ids.deleted = state.deleted
        self._take(followed, tail.messages[::-1])
        place.note_look(tail.end, is_last=True)
        room.spread()
        if is_first:  # or else something may have come meanwhile
            followed.is_current.set()

    def _take(self, followed: Followed, messages: Iterable[StreamMessage]) -> None:
        """Put messages of a stream into the room's log."""
        room, place, ids = followed.room, followed.place, followed.ids
        for message in messages:
            place.pass_over(message.id, renews=message.by is not None or not message.is_understood)
            if not message.is_understood or followed.repeated.has(message.by):
                continue
            if message.id <= ids.last:  # the stream before it had expired
                room.spread()
                self._leave_out(followed, Break(Missed.ANEW, just_before(message.id)))
            frames: list[bytes | bytearray] = []
            encode_message(message.opcode, message.payload, frames)
            ids.add(*message.id)
            by = message.by
            room.add(frames, by.connection if by is not None and by.node == self._node else NOBODY, message.key)
