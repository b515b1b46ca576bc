"""The scripts that a reader runs in Redis."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from rawws.broadcast.stream_entries import StreamState, parse_stream_id

# KEYS: the streams. ARGV: the bytes of a page, and for each stream "XRANGE" or "XREVRANGE", the two ends of the range,
# the number of entries wanted, and the ids of the two landmarks.
#
# Returns the time, and then an answer for each of the first streams, as many as fit into a page, but at least one: the
# answer of XINFO STREAM without its two entries; whether the stream has one of its landmarks; entries; whether there
# may be more; and its time of expiry. For a stream that can't be read, the answer is the error.
READ_PAGE = """
local budget, answer, place = tonumber(ARGV[1]), {redis.call('TIME')}, 2
local function take(entry)
  local size = 0
  for _, field in ipairs(entry[2]) do size = size + #field end
  budget = budget - math.max(size, 1024)
end
for _, stream in ipairs(KEYS) do
  local info = redis.pcall('XINFO', 'STREAM', stream)
  if info.err then
    answer[#answer + 1] = info.err
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
    while more and #entries < most and (budget > 0 or (#answer == 1 and #entries == 0)) do
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
    answer[#answer + 1] = problem or {
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
return answer
"""


# KEYS: the stream that wakes a reader. ARGV: its expiry, in seconds.
RING = """
redis.call('XADD', KEYS[1], 'MAXLEN', '1', '*', '', '')
redis.call('EXPIRE', KEYS[1], ARGV[1])
"""


class Page(NamedTuple):
    """The answer of `READ_PAGE` for a stream that can be read."""

    state: StreamState
    entries: list[tuple[bytes, dict[bytes, bytes]]]  # the id and the fields of each
    is_last: bool

    @classmethod
    def of(cls, answer: Sequence[Any]) -> Page:
        length, added, oldest, newest, deleted, has_landmark, entries, has_more, expires_ms = answer
        ends = parse_stream_id(oldest), parse_stream_id(newest)
        state = StreamState(length, added, *ends, parse_stream_id(deleted), bool(has_landmark), expires_ms)
        found = [(given, dict(zip(*[iter(fields)] * 2, strict=True))) for given, fields in entries]
        return cls(state, found, not has_more)


def ms_of(time: Sequence[Any]) -> int:
    """Return the answer of Redis's TIME in milliseconds."""
    seconds, microseconds = time
    return int(seconds) * 1000 + int(microseconds) // 1000


# KEYS: a stream. ARGV: the most entries; the expiry in seconds; the fields of an entry.
APPEND = """
redis.call('XADD', KEYS[1], 'MAXLEN', '~', ARGV[1], '*', unpack(ARGV, 3))
redis.call('EXPIRE', KEYS[1], ARGV[2])
"""

# KEYS: the stream of commands, and that of nodes. ARGV: the most commands; their expiry in seconds; how far the roll
# reaches back, in milliseconds; the most entries of the roll; the fields of the question.
#
# Returns the roll.
ASK = """
redis.call('XADD', KEYS[1], 'MAXLEN', '~', ARGV[1], '*', unpack(ARGV, 5))
redis.call('EXPIRE', KEYS[1], ARGV[2])
local time = redis.call('TIME')
return redis.call('XRANGE', KEYS[2], time[1] * 1000 - ARGV[3], '+', 'COUNT', ARGV[4])
"""
