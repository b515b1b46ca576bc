"""The scripts that keep the leases of groups in Redis, and the parts of them that publishing needs too.

A group of a room is a consumer group of the room's stream, ``rawws:NAME``. XREADGROUP takes new messages for it. Its
list of pending entries has exactly its jobs, so XPENDING finds the oldest one and XACK finishes one. The rest is beside
it, in keys ``rawws:group:NAME:WHAT/PATH`` of the same Redis:

===========  ==========================================================================================
``state``    a hash: the group's incarnation (``born``), and its counts
``jobs``     a hash: each job's number, tries, place, lease, time, most tries, last reason, and key
``due``      a sorted set: the ends of leases and of waits, in milliseconds of Redis's clock
``ready``    a sorted set: jobs that wait for a worker, by number
``parked``   a sorted set: jobs that wait for an earlier one with their key, by key and number
``busy``     a hash: the job of each key that isn't parked
``turn:X``   the last call of the node X, and the jobs that it was given: for a call whose answer was lost
``workers``  a hash: the number of workers of each node, and the time of its last notice
===========  ==========================================================================================

All groups are in the sorted set ``rawws:groups``, by the time at which something is due. ``rawws:groups:of/PATH`` names
the groups of a room, and ``rawws:groups:kept/PATH`` counts the bytes that they keep. The paths of full rooms are in
``rawws:groups:full``. The stream ``rawws:groups:bell`` tells nodes what has happened.

Every script does a bounded amount of work. Ids are compared as texts, since a half of one doesn't fit into a number.
"""

from __future__ import annotations

GROUPS_KEY, BELL_KEY, FULL_KEY = "rawws:groups", "rawws:groups:bell", "rawws:groups:full"

# Functions for scripts that add to streams or finish jobs.
KEPT = """
local function before(a, b)
  local a1, a2 = string.match(a, '^(%d+)%-(%d+)$')
  local b1, b2 = string.match(b, '^(%d+)%-(%d+)$')
  if a1 == b1 then a1, b1 = a2, b2 end
  if #a1 ~= #b1 then return #a1 < #b1 end
  return a1 < b1
end
local function ring(what, whom)
  redis.call('XADD', 'rawws:groups:bell', 'MAXLEN', '~', '1000', '*', what, whom)
  redis.call('EXPIRE', 'rawws:groups:bell', 3600)
end
local function groups_in(path)
  local found = redis.pcall('HMGET', 'rawws:groups:of' .. path, 'names', 'limit')
  if found.err or not found[1] then return nil end
  return {names = found[1], limit = tonumber(found[2])}
end
-- The id before which no group of a room needs a message.
local function oldest_of(stream, of)
  local oldest
  local infos = redis.pcall('XINFO', 'GROUPS', stream)
  for _, info in ipairs(infos.err and {} or infos) do
    local at = {}
    for place = 1, #info, 2 do at[info[place]] = info[place + 1] end
    local name = string.match(at['name'], '^rawws:(.*)$')
    if name and string.find(' ' .. of.names .. ' ', ' ' .. name .. ' ', 1, true) then
      local id = at['last-delivered-id']
      local milliseconds, sequence = string.match(id, '^(%d+)%-(%d+)$')
      if at['pending'] > 0 then
        id = redis.call('XPENDING', stream, at['name'])[2]
      elseif #sequence < 15 then
        id = milliseconds .. '-' .. string.format('%.0f', sequence + 1)
      end
      if not oldest or before(id, oldest) then oldest = id end
    end
  end
  return oldest
end
local function count_of(element)
  return tonumber(string.match(element or '', ' (%d+)$') or '0')
end
local function is_over(path, limit)
  local kept = 'rawws:groups:kept' .. path
  return count_of(redis.call('LINDEX', kept, -1)) - count_of(redis.call('LINDEX', kept, 0)) >= limit
end
local function note_added(stream, of, last, size, entries)
  redis.call('PERSIST', stream)
  local path = string.sub(stream, 7)
  local kept = 'rawws:groups:kept' .. path
  local ends = redis.call('LRANGE', kept, -2, -1)
  local total = count_of(ends[#ends]) + size
  local element = last .. ' ' .. string.format('%.0f', total)
  if #ends == 2 and total - count_of(ends[1]) <= of.limit / 1024 then
    redis.call('LSET', kept, -1, element)
  else
    redis.call('RPUSH', kept, element)
  end
  if is_over(path, of.limit) and redis.call('SADD', 'rawws:groups:full', path) == 1 then
    ring('full', path)
  end
  for name in string.gmatch(of.names, '%S+') do
    if redis.call('HDEL', 'rawws:group:' .. name .. ':state' .. path, 'hungry') == 1 then
      ring('work', name .. ' ' .. path)
    end
  end
  local excess = redis.call('XLEN', stream) - entries
  if excess > 0 then
    local oldest = oldest_of(stream, of)
    if oldest then redis.call('XTRIM', stream, 'MINID', '~', oldest, 'LIMIT', excess) end
  end
end
-- Counts what the groups of a room don't keep any more. Messages may also have been deleted by hand.
local function let_go(stream)
  local path = string.sub(stream, 7)
  local of = groups_in(path)
  local oldest, kept = of and oldest_of(stream, of), 'rawws:groups:kept' .. path
  if not oldest then return end
  local some = redis.call('XRANGE', stream, oldest, '+', 'COUNT', 1)[1]
  while true do
    local second = redis.call('LINDEX', kept, 1)
    if not second or (some and not before(string.match(second, '^%S+'), some[1])) then break end
    redis.call('LPOP', kept)
  end
  if redis.call('SISMEMBER', 'rawws:groups:full', path) == 1 and not is_over(path, of.limit * 15 / 16) then
    redis.call('SREM', 'rawws:groups:full', path)
    ring('free', path)
  end
end
local function cut(stream, kept, of)
  local used = redis.pcall('MEMORY', 'USAGE', stream, 'SAMPLES', '0')
  if type(used) ~= 'number' or used * 3 < kept * 4 then
    return
  end
  local excess, oldest, some = used - kept, '-'
  repeat
    some = redis.pcall('XRANGE', stream, oldest, '+', 'COUNT', 10)
    for place, entry in ipairs(some) do
      local size = 0
      for _, field in ipairs(entry[2]) do size = size + 1.25 * #field end
      oldest = entry[1]
      if place == 10 or place == #some then
        break
      end
      excess = excess - size
      if excess < 0 then
        break
      end
    end
  until excess < 0 or #some < 10
  local needed = of and oldest_of(stream, of)
  if needed and before(needed, oldest) then oldest = needed end
  redis.pcall('XTRIM', stream, 'MINID', oldest)
end
"""

OF_GROUP = """
local stream, name, path = KEYS[1], ARGV[1], ARGV[2]
local group = 'rawws:' .. name
local function key(what) return 'rawws:group:' .. name .. ':' .. what .. path end
local state, jobs, due_key, ready_key = key('state'), key('jobs'), key('due'), key('ready')
local parked_key, busy_key, workers = key('parked'), key('busy'), key('workers')
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local function count_in(command, where)
  local count = redis.pcall(command, where)
  return type(count) == 'number' and count or -1000000
end
-- Whether each job has its place, and each pending message its job. Keys may have been evicted, or changed by hand.
local function is_whole()
  local pending, count = redis.pcall('XPENDING', stream, group), count_in('HLEN', jobs)
  if pending.err or pending[1] > count then return false end
  return count == count_in('ZCARD', due_key) + count_in('ZCARD', ready_key) + count_in('ZCARD', parked_key)
end
"""

# KEYS: the stream. ARGV: the group and the path; the new incarnation's name; "last" or "id", and how many of the last
# messages a new group has, or the id after which it begins; the oldest that these may be, in milliseconds; the most
# groups, and the most of a room; the bytes that the groups of a room may keep.
#
# A group that has lost only a part of its keys begins with the first message that it hasn't finished.
#
# Returns the name of the incarnation, and whether it is new; or an empty table if there are too many groups.
OPEN = (
    KEPT
    + OF_GROUP
    + """
local known = redis.pcall('HGET', state, 'born')
if type(known) ~= 'string' then known = nil end
local has = redis.pcall('XPENDING', stream, group)
local of = 'rawws:groups:of' .. path
local names = redis.call('HGET', of, 'names')
if known and is_whole() then
  redis.call('HSET', of, 'limit', ARGV[9])
  return {known, 0}
end
if not known then
  local count = 0
  for _ in string.gmatch(names or '', '%S+') do count = count + 1 end
  if redis.call('ZCARD', 'rawws:groups') >= tonumber(ARGV[7]) or count >= tonumber(ARGV[8]) then return {} end
end
redis.call('SET', key('ended'), '', 'EX', 1)
redis.call('UNLINK', state, jobs, due_key, ready_key, parked_key, busy_key, workers, key('ended'))
local position, read = ARGV[5], nil
if not has.err then
  -- The group goes on with the first message that it hasn't finished.
  local previous = redis.call('XREVRANGE', stream, '(' .. oldest_of(stream, {names = name}), '-', 'COUNT', 1)[1]
  position = previous and previous[1] or '0-0'
  redis.call('XGROUP', 'DESTROY', stream, group)
elseif ARGV[4] == 'last' then
  local wanted, taken, budget, upto = tonumber(ARGV[5]), 0, 16777216, '+'
  position = wanted > 0 and '0-0' or '$'
  while wanted > 0 and position == '0-0' do
    local some = redis.pcall('XREVRANGE', stream, upto, '-', 'COUNT', 100)
    if some.err or #some == 0 then break end
    for _, entry in ipairs(some) do
      for _, field in ipairs(entry[2]) do budget = budget - #field end
      local age = now - tonumber(string.match(entry[1], '^%d+'))
      if taken >= wanted or budget < 0 or age > tonumber(ARGV[6]) then
        position = entry[1]
        break
      end
      taken, upto = taken + 1, '(' .. entry[1]
    end
  end
  local info = redis.pcall('XINFO', 'STREAM', stream)
  for place = 1, #info, 2 do
    if info[place] == 'entries-added' then read = math.max(0, info[place + 1] - taken) end
  end
end
if read then
  redis.call('XGROUP', 'CREATE', stream, group, position, 'MKSTREAM', 'ENTRIESREAD', read)
else
  redis.call('XGROUP', 'CREATE', stream, group, position, 'MKSTREAM')
end
redis.call('PERSIST', stream)
local kept = 'rawws:groups:kept' .. path
if not names or redis.call('EXISTS', kept) == 0 then
  redis.call('DEL', kept)
  redis.call('RPUSH', kept, '0-0 0')
  local last = redis.call('XREVRANGE', stream, '+', '-', 'COUNT', 1)[1]
  if last and position ~= '$' then
    local used = redis.pcall('MEMORY', 'USAGE', stream, 'SAMPLES', '0')
    redis.call('RPUSH', kept, last[1] .. ' ' .. (type(used) == 'number' and used or 0))
  end
end
redis.call('HSET', state, 'born', ARGV[3], 'count', 0, 'leased', 0)
if not string.find(' ' .. (names or '') .. ' ', ' ' .. name .. ' ', 1, true) then
  names = names and names .. ' ' .. name or name
end
redis.call('HSET', of, 'names', names, 'limit', ARGV[9])
let_go(stream)
redis.call('ZADD', 'rawws:groups', '+inf', name .. ' ' .. path)
return {ARGV[3], 1}
"""
)

# KEYS: the stream. ARGV: the group and the path; the expiry of the stream when it has no groups any more.
#
# Forgets a group, and returns whether there was one. Its last incarnation is known for an hour.
END = (
    KEPT
    + OF_GROUP
    + """
local born = redis.call('HGET', state, 'born')
if not born then return 0 end
redis.call('SET', key('ended'), born, 'EX', 3600)
redis.pcall('XGROUP', 'DESTROY', stream, group)
redis.call('UNLINK', state, jobs, due_key, ready_key, parked_key, busy_key, workers)
redis.call('ZREM', 'rawws:groups', name .. ' ' .. path)
local of, left = 'rawws:groups:of' .. path, ''
for each in string.gmatch(redis.call('HGET', of, 'names') or '', '%S+') do
  if each ~= name then left = left == '' and each or left .. ' ' .. each end
end
if left == '' then
  redis.call('DEL', of, 'rawws:groups:kept' .. path)
  redis.call('SREM', 'rawws:groups:full', path)
  redis.call('EXPIRE', stream, ARGV[3])
  ring('free', path)
else
  redis.call('HSET', of, 'names', left)
  let_go(stream)
end
ring('end', name .. ' ' .. path)
return 1
"""
)

# ARGV: groups and paths in turns. Returns for each an empty table if there is none, or: the messages that no worker
# has, the leases, the id of the oldest unfinished message, its age in milliseconds, the counts, and the workers of all
# nodes.
STATES = """
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local answers = {}
for place = 1, #ARGV, 2 do
  local name, path = ARGV[place], ARGV[place + 1]
  local stream, group = 'rawws:' .. path, 'rawws:' .. name
  local function key(what) return 'rawws:group:' .. name .. ':' .. what .. path end
  local is = redis.call('HMGET', key('state'), 'born', 'leased', 'delivered', 'redelivered', 'done', 'dead')
  local answer = {}
  if is[1] then
    local waiting = redis.call('HLEN', key('jobs')) - (tonumber(is[2]) or 0)
    local oldest, pending = '', redis.pcall('XPENDING', stream, group)
    local infos = redis.pcall('XINFO', 'GROUPS', stream)
    for _, info in ipairs(infos.err and {} or infos) do
      local at = {}
      for each = 1, #info, 2 do at[info[each]] = info[each + 1] end
      if at['name'] == group then
        local rest = redis.call('XRANGE', stream, '(' .. at['last-delivered-id'], '+', 'COUNT', 1)
        local lag = at['lag']
        if not lag and rest[1] then
          lag = #redis.call('XRANGE', stream, '(' .. at['last-delivered-id'], '+', 'COUNT', 100)
        end
        waiting = waiting + (lag or 0)
        oldest = rest[1] and rest[1][1] or ''
      end
    end
    if not pending.err and pending[2] then oldest = pending[2] end
    local age = oldest ~= '' and math.max(0, now - tonumber(string.match(oldest, '^%d+'))) or 0
    local count, notes = 0, redis.call('HGETALL', key('workers'))
    for each = 1, #notes, 2 do
      local some, at = string.match(notes[each + 1], '^(%d+) (%d+)$')
      if now - tonumber(at) < 15000 then count = count + tonumber(some) end
    end
    local function number(at) return tonumber(is[at]) or 0 end
    answer = {waiting, number(2), oldest, age, number(3), number(4), number(5), number(6), count}
  end
  answers[#answers + 1] = answer
end
return answers
"""

# Returns some groups for which something is due, and the paths of all full rooms.
TICK = """
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local due = redis.call('ZRANGEBYSCORE', 'rawws:groups', '-inf', now, 'LIMIT', 0, 20)
return {due, redis.call('SMEMBERS', 'rawws:groups:full')}
"""
# ARGV: the place after which groups are listed, and how many.
LIST = "return redis.call('ZRANGE', 'rawws:groups', ARGV[1], ARGV[1] + ARGV[2] - 1)"
# KEYS: the bell. Returns the id of its last entry.
NEWEST = """
local last = redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)[1]
return last and last[1] or '0-0'
"""
