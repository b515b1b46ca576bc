"""Publishing in Redis Streams: in batches, in order, and nothing twice.

A batch is one call of a script. In one step, it adds messages to the streams, and writes the number of the last message
into a key of this node, the *marker*. If no answer comes, the next connection reads from the marker how much of the
batch has arrived. It also writes its own generation into the marker, and the script refuses to run if it finds another
generation. Otherwise a batch that was delayed in some buffer could arrive after its repetition.

If Redis is lost together with its markers, all messages without an answer are sent again. Readers recognize the ones
that they have read before (`rawws.broadcast.stream_entries.DuplicateFilter`).
"""

from __future__ import annotations

import logging
import random
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import trio

from rawws import logs
from rawws.backplane.connector import TIMEOUT_S
from rawws.backplane.lease_scripts import KEPT
from rawws.backplane.troubles import Refused, reading, try_out, writing
from rawws.broadcast.outbox import Outbox, Outgoing
from rawws.broadcast.stream_entries import PREFIX, Retention, key_of, once_key_of, parse_stream_id
from rawws.limits import MIB
from rawws.wire.trace import FAULT

if TYPE_CHECKING:
    from rawws.backplane.connector import Client

# Publishers are held back when the messages that wait for Redis have this many bytes.
MAX_WAITING_BYTES = MIB
# One script call has at most this many messages. It takes about 5 ms, during which Redis serves nobody else.
BATCH = 1000
BATCH_BYTES = MIB
# The size of a stream is checked once per this many bytes on average, at random: for a large one it takes Redis 2 ms.
CUT_EVERY_BYTES = MIB
MARKER_EXPIRY_S = 86_400
IDLE_S = 1.0

# KEYS: the node's marker, the streams, and the keys of Idempotency-Keys.
#
# ARGV: the expected marker, if there is one; the generation; the number of the first message; the marker's expiry in
# seconds; whether to check the sizes of the streams; the number of streams. For each stream: the entries and the bytes
# that it keeps, and its expiry. For each message: the place of its stream in KEYS; the place of its Idempotency-Key or
# 0; the message's digest; the number of its fields, and the fields.
#
# Returns an id for each message; "digest id" for a message with a key; or a minus and the reason why it could not be
# added. An error that concerns all messages (no memory, no right) ends the script, since it may pass.
#
# A stream that takes a third more than the bytes that it keeps is cut to these. For an entry, Redis needs up to a
# quarter more than the entry's size, since it allocates memory in certain sizes.
#
# The effects of a script stay when it fails, so nothing may raise between the first XADD and the marker.
#
# In a room with groups, nothing is trimmed that they haven't finished, and the bytes that they keep are counted.
PUBLISH = (
    KEPT
    + """
local marker = redis.call('GET', KEYS[1])
if marker and marker ~= ARGV[1] then
  return redis.error_reply('FENCED a later connection of this node has taken over')
end
local of_all = {OOM = true, MISCONF = true, READONLY = true, NOREPLICAS = true, MASTERDOWN = true, NOPERM = true}
local has_groups = redis.pcall('EXISTS', 'rawws:groups') == 1
local groups = {}
local function groups_at(at)
  if has_groups and groups[at] == nil then groups[at] = groups_in(string.sub(KEYS[at], 7)) or false end
  return groups[at]
end
local function flatten(answer)
  return type(answer) == 'table' and '-' .. answer.err or answer
end
local function add(at, once, digest, first, last)
  local stream, retention = KEYS[at], 3 * at + 1
  local expiry = ARGV[retention + 2]
  local answer = once > 0 and redis.pcall('GET', KEYS[once])
  if answer then
    if type(answer) == 'string' and string.sub(answer, 1, 1) == '-' then
      return '-ERR something else has written to the key of its Idempotency-Key'
    end
    return flatten(answer)
  end
  local of = groups_at(at)
  if of then
    answer = flatten(redis.pcall('XADD', stream, '*', unpack(ARGV, first, last)))
  else
    answer = flatten(redis.pcall('XADD', stream, 'MAXLEN', '~', ARGV[retention], '*', unpack(ARGV, first, last)))
  end
  if string.sub(answer, 1, 1) == '-' then
    return answer
  end
  if of then
    of.last, of.size = answer, (of.size or 0)
    for place = first, last do of.size = of.size + #ARGV[place] end
  else
    redis.pcall('EXPIRE', stream, expiry)
  end
  if once > 0 then
    answer = digest .. ' ' .. answer
    redis.pcall('SET', KEYS[once], answer, 'EX', expiry)
  end
  return answer
end
local function tidy(at)
  local stream, found, retention = KEYS[at], groups_at(at), 3 * at + 1
  if found and found.last then
    note_added(stream, found, found.last, found.size, tonumber(ARGV[retention]))
  end
  if ARGV[5] == '1' then cut(stream, tonumber(ARGV[retention + 1]), found) end
end
local streams = tonumber(ARGV[6])
local given, place, done = {}, 7 + 3 * streams, 0
while place <= #ARGV do
  local last = place + 3 + tonumber(ARGV[place + 3])
  local answer = add(tonumber(ARGV[place]), tonumber(ARGV[place + 1]), ARGV[place + 2], place + 4, last)
  given[#given + 1] = answer
  if of_all[string.match(answer, '^%-(%u+)')] or string.find(answer, '-ERR The user executing', 1, true) == 1 then
    break
  end
  done = done + 1
  place = last + 1
end
for at = 2, streams + 1 do pcall(tidy, at) end
redis.call('SET', KEYS[1], ARGV[2] .. ':' .. (tonumber(ARGV[3]) - 1 + done), 'EX', ARGV[4])
return given
"""
)
# KEYS: the node's marker. ARGV: the new generation; the number for a missing marker; the marker's expiry. Returns the
# new marker, which has the generation and the number.
TAKE_OVER = """
local before = redis.call('GET', KEYS[1])
local marker = ARGV[1] .. ':' .. (before and string.match(before, ':(%d+)$') or ARGV[2])
redis.call('SET', KEYS[1], marker, 'EX', ARGV[3])
return marker
"""
_OF_ALL = (b"-OOM", b"-MISCONF", b"-READONLY", b"-NOREPLICAS", b"-MASTERDOWN", b"-NOPERM", b"-ERR The user executing")


class Publisher:
    """Takes messages, and sends them to their streams. `publish` has to be running."""

    def __init__(self, node: str, on_space: Callable[[], None], on_published: Callable[[Outgoing], None]) -> None:
        """``on_space`` is called when messages have left the outbox and it isn't full.

        ``on_published`` is called with each message that Redis has given an id.
        """
        self.outbox = Outbox(MAX_WAITING_BYTES)
        self._something_to_send = trio.Event()
        self._marker_key = f"{PREFIX}node:{node}"
        self._trial_keys = [f"{PREFIX}trial:{node}", f"{PREFIX}trial:{node}:text"]
        self._generation = 0
        self._on_space = on_space
        self._on_published = on_published

    def put(self, message: Outgoing) -> None:
        self.outbox.put(message)
        self._something_to_send.set()

    def withdraw(self, message: Outgoing) -> bool:
        is_withdrawn = self.outbox.withdraw(message)
        if not self.outbox.is_full:
            self._on_space()
        return is_withdrawn

    async def publish(self, client: Client, on_works: Callable[[], None]) -> None:
        """Publish waiting messages until this is cancelled. Raises the exception of a command that fails.

        ``on_works`` is called when publishing works: a batch has been published, or nothing waits and Redis refuses
        none of the commands.
        """
        outbox = self.outbox
        script = client.register_script(PUBLISH)  # loaded whenever Redis doesn't have it
        with trio.fail_after(TIMEOUT_S):
            stream, text = self._trial_keys
            await try_out(client, self._trial_keys, [*writing(stream, text), *reading(stream)])
            marker = await self._take_over(client)
        while True:
            if not outbox:
                on_works()
                await self._wait(client)
            batch = outbox.batch(BATCH, BATCH_BYTES)
            keys, arguments = self._call(batch, marker)
            with trio.fail_after(TIMEOUT_S):
                answers: Any = await script(keys, arguments)
            failure = answers.pop() if answers[-1].startswith(_OF_ALL) else None
            for message, answer in zip(batch, answers, strict=failure is None):
                _note(message, answer)
            self._are_done(len(answers))
            marker = f"{self._generation}:{outbox.sent}"
            if failure is not None:
                outbox.give_up()
                raise Refused(failure[1:].decode(errors="replace"))
            on_works()

    async def _wait(self, client: Client) -> None:
        """Wait until there is something to send. Ping Redis meanwhile, so that its loss is noticed before a POST."""
        self._something_to_send = trio.Event()
        while not self._something_to_send.is_set():
            with trio.move_on_after(IDLE_S) as idle:
                await self._something_to_send.wait()
            if idle.cancelled_caught:
                with trio.fail_after(TIMEOUT_S):
                    await client.ping()

    async def _take_over(self, client: Client) -> str:
        """Fence off earlier connections, find out how much they have published, and return the new marker."""
        outbox = self.outbox
        self._generation += 1
        arguments = (self._generation, outbox.sent, MARKER_EXPIRY_S)
        answer: Any = await client.register_script(TAKE_OVER)([self._marker_key], arguments)
        marker: str = answer.decode()
        arrived = int(marker.partition(":")[2]) - outbox.sent
        self._are_done(max(0, min(arrived, outbox.under_way)))
        outbox.give_up()
        return marker

    def _call(self, batch: list[Outgoing], marker: str) -> tuple[list[str], list[str | bytes | int]]:
        """Return the keys and the arguments of the script for a batch."""
        streams = {key_of(message.path): Retention.of(message.history) for message in batch}
        places = {key: place for place, key in enumerate([self._marker_key, *streams], 1)}
        is_to_cut = random.random() * CUT_EVERY_BYTES < sum(len(message.payload) for message in batch)
        first = self.outbox.sent + 1
        arguments: list[str | bytes | int] = [marker, self._generation, first, MARKER_EXPIRY_S, int(is_to_cut)]
        arguments.append(len(streams))
        for retention in streams.values():
            arguments += retention
        for message in batch:
            once = 0
            if message.once is not None:
                once = places.setdefault(once_key_of(message.path, message.once), len(places) + 1)
            fields = message.fields
            arguments += (places[key_of(message.path)], once, message.digest, len(fields), *fields)
        return list(places), arguments

    def _are_done(self, count: int) -> None:
        for message in self.outbox.arrived(count):
            if message.problem:
                sentence = f"{message.described} can't be published, and is dropped: {message.problem}"
                logs.server_line(logging.ERROR, FAULT, sentence)
            if message.id is not None:
                self._on_published(message)
            if message.on_done is not None:
                message.on_done()
        if not self.outbox.is_full:
            self._on_space()


def _note(message: Outgoing, answer: bytes) -> None:
    """Record the script's answer in a message."""
    if answer.startswith(b"-"):
        message.problem = answer[1:].decode(errors="replace")
        return
    digest, _, given = answer.rpartition(b" ")
    try:
        message.id = parse_stream_id(given)
    except ValueError:
        message.problem = "something else has written to the key of its Idempotency-Key"
        return
    message.is_reused = digest.decode(errors="replace") != message.digest
