"""The scripts that a reader runs in Redis."""

from __future__ import annotations

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
