"""The script that is a turn of a group in Redis: answers and ended leases first, then jobs for free workers.

All decisions about leases are in it, so that they are made one after the other, by Redis's clock, whichever node asks.
They are those of `rawws.groups.group.Group`. Changes are collected, and written in a few commands at the end.
"""

from __future__ import annotations

from rawws.backplane.lease_scripts import KEPT, OF_GROUP

# KEYS: the room's stream, and that of the dead room. ARGV: the group and the path; the turn as JSON; the entries, the
# bytes and the expiry of the dead room.
#
# The turn has: "born", the incarnation; "node"; "serial", the number of this call of the node; "again", the number of
# the first earlier call whose answer was lost, or 0; "most" deliveries, and "bytes" of payloads; "workers" of the node;
# "events" and "wants". An event is [what, id, lease, milliseconds, why, is_token]: a worker's word, or "gone" for the
# lease of a worker that has gone, or "back" for a delivery that wasn't sent. A want is [lease, milliseconds, tries,
# how many], for each worker that is free.
#
# Returns "GONE" if there is no such incarnation, "ENDED" if it has been ended, "STALE" for a call that comes too late.
# Else "OK"; for each event 1, or 0 if the job isn't leased so, or 2 if it has to be sent again; deliveries, as the
# place in "wants", the id, the tries and the fields; dead jobs, as the id, the tries and the reason; the ids of jobs
# whose messages are lost; the milliseconds until something is due, or -1; and whether more can be had at once;
# and the number of the last call of the node before this one.
TURN = (
    KEPT
    + OF_GROUP
    + """
local request = cjson.decode(ARGV[3])
local marker_key = key('turn:' .. request.node)
local is = redis.pcall('HMGET', state, 'born', 'count', 'hungry')
if is[1] ~= request.born then
  return {redis.call('GET', key('ended')) == request.born and 'ENDED' or 'GONE'}
end
if not is_whole() then return {'GONE'} end
local marker = redis.call('GET', marker_key)
marker = marker and cmsgpack.unpack(marker) or {0, {}}
if marker[1] >= request.serial then return {'STALE'} end
-- Redis refuses this first if it refuses writes, and nothing has changed then.
redis.call('SET', marker_key, cmsgpack.pack({request.serial, {}}), 'EX', 600)

local N, TRIES, AT, LEASE, ACK, MOST, REASON, KEY = 1, 2, 3, 4, 5, 6, 7, 8
local cache, changed, due, ready, done = {}, {}, {}, {}, {}
local results, deliveries, dead, lost, given = {}, {}, {}, {}, {}
local counts = {done = 0, dead = 0, delivered = 0, redelivered = 0, leased = 0, count = 0}
local budget, has_new_ready, dead_bytes, dead_last = request.bytes, false, 0, nil
local dead_stream = KEYS[2]
local dead_of = nil

local function in_chunks(command, where, list)
  for first = 1, #list, 1000 do
    redis.call(command, where, unpack(list, first, math.min(first + 999, #list)))
  end
end
local function load(ids)
  for first = 1, #ids, 1000 do
    local some = {unpack(ids, first, math.min(first + 999, #ids))}
    for place, packed in ipairs(redis.call('HMGET', jobs, unpack(some))) do
      if cache[some[place]] == nil then cache[some[place]] = packed and cmsgpack.unpack(packed) or false end
    end
  end
end
local function flush(zset, pending)
  local add, remove = {}, {}
  for id, score in pairs(pending) do
    if score then
      add[#add + 1] = string.format('%.0f', score)
      add[#add + 1] = id
    else
      remove[#remove + 1] = id
    end
    pending[id] = nil
  end
  in_chunks('ZREM', zset, remove)
  in_chunks('ZADD', zset, add)
end
local function set_ready(id, job)
  job[AT], ready[id], changed[id], has_new_ready = 'R', job[N], true, true
end
local function finish(id, job)
  cache[id], changed[id], due[id], ready[id] = false, true, false, false
  done[#done + 1] = id
  local sha = job[KEY]
  if sha == '' then return end
  local member = redis.call('ZRANGEBYLEX', parked_key, '[' .. sha, '(' .. sha .. 'g', 'LIMIT', 0, 1)[1]
  if not member then
    redis.call('HDEL', busy_key, sha)
    return
  end
  redis.call('ZREM', parked_key, member)
  local following = string.sub(member, 57)
  redis.call('HSET', busy_key, sha, following)
  load({following})
  if cache[following] then set_ready(following, cache[following]) end
end
local function release(job)
  if job[AT] == 'L' then counts.leased = counts.leased - 1 end
  job[AT] = ''
end
local function fields_of(id)
  local found = redis.call('XRANGE', stream, id, id)[1]
  if not found then
    budget = budget - 1024  -- a turn doesn't look for a hundred thousand messages that are lost
    return nil
  end
  local size = 0
  for _, field in ipairs(found[2]) do size = size + #field end
  budget = budget - math.max(size, 64)
  return found[2]
end
local function text(given)
  return (string.gsub(cjson.encode(given), '\\\\/', '/'))
end
local function die(id, job, reason)
  release(job)
  local data, op, fields = '', nil, fields_of(id) or {}
  for place = 1, #fields, 2 do
    if fields[place] == 'data' then data = fields[place + 1] end
    if fields[place] == 'op' then op = fields[place + 1] end
  end
  local worker = string.match(job[LEASE], '^%S* (.*)$') or ''
  data = '{"id":"' .. id .. '","group":"' .. name .. '","tries":' .. string.format('%.0f', job[TRIES]) .. ',"reason":'
    .. text(reason) .. ',"worker":' .. text(worker) .. '}\\n' .. data
  dead_of = dead_of or {groups = groups_in(string.sub(dead_stream, 7))}
  local words = {'XADD', dead_stream}
  if not dead_of.groups then
    words[3], words[4], words[5] = 'MAXLEN', '~', ARGV[4]
  end
  for _, word in ipairs({'*', 'data', data}) do words[#words + 1] = word end
  if op then
    words[#words + 1] = 'op'
    words[#words + 1] = op
  end
  dead_last = redis.call(unpack(words))
  dead_bytes = dead_bytes + #data
  counts.dead = counts.dead + 1
  dead[#dead + 1] = {id, job[TRIES], reason, worker}
  finish(id, job)
end
local function end_try(id, job, why, wait)
  release(job)
  if job[TRIES] >= job[MOST] then
    die(id, job, why)
    return
  end
  job[REASON] = why
  if wait > 0 then
    job[AT], due[id], changed[id] = 'D', now + wait, true
  else
    due[id] = false
    set_ready(id, job)
  end
end
local function undo(id, job)
  release(job)
  counts.delivered = counts.delivered - 1
  if job[TRIES] > 1 then counts.redelivered = counts.redelivered - 1 end
  job[TRIES], due[id] = job[TRIES] - 1, false
  set_ready(id, job)
end

-- The deliveries of calls whose answers were lost, which no worker has got.
if request.again > 0 and marker[1] >= request.again then
  local ids = {}
  for _, each in ipairs(marker[2]) do ids[#ids + 1] = each[1] end
  load(ids)
  for _, each in ipairs(marker[2]) do
    local job = cache[each[1]]
    if job and job[AT] == 'L' and job[TRIES] == each[2] then undo(each[1], job) end
  end
end

-- What has happened to leases.
do
  local ids = {}
  for _, event in ipairs(request.events) do ids[#ids + 1] = event[2] end
  load(ids)
end
for place, event in ipairs(request.events) do
  local what, id, lease, job = event[1], event[2], event[3], cache[event[2]]
  local is_own = job and job[AT] == 'L'
  if is_own and event[6] then
    is_own = string.sub(job[LEASE], 1, 1) ~= '#'
    if lease == '' then
      is_own = is_own and job[TRIES] == 1
    else
      is_own = is_own and string.match(job[LEASE], '^%S*') == lease
    end
  elseif is_own then
    is_own = job[LEASE] == lease
  end
  results[place] = is_own and 1 or 0
  if not is_own then
    -- It is another's, or nobody's.
  elseif what == 'ack' then
    release(job)
    finish(id, job)
    counts.done = counts.done + 1
  elseif what == 'more' then
    due[id] = now + job[ACK]
  elseif what == 'back' then
    undo(id, job)
  elseif budget <= 0 then
    results[place] = 2
  elseif what == 'term' then
    die(id, job, event[5])
  else
    end_try(id, job, event[5], event[4])
  end
end

-- What is due.
flush(due_key, due)
local over = redis.call('ZRANGEBYSCORE', due_key, '-inf', now, 'LIMIT', 0, request.most)
load(over)
local is_more = #over == request.most
for _, id in ipairs(over) do
  local job = cache[id]
  if budget <= 0 then
    is_more = true
    break
  elseif not job then
    due[id] = false
  elseif job[AT] == 'L' then
    end_try(id, job, 'no answer within ' .. string.format('%g', job[ACK] / 1000) .. ' s', 0)
  else
    due[id] = false
    set_ready(id, job)
  end
end

-- Jobs for free workers, which take turns.
local wants, turn, free = {}, 1, 0
for place, want in ipairs(request.wants) do
  wants[place] = {place, want}
  free = free + want[4]
end
local function lease(id, job, fields)
  local place, want = unpack(wants[turn])
  want[4] = want[4] - 1
  free = free - 1
  if want[4] == 0 then table.remove(wants, turn) else turn = turn + 1 end
  if turn > #wants then turn = 1 end
  job[AT], job[TRIES], job[LEASE], job[ACK], job[MOST] = 'L', job[TRIES] + 1, want[1], want[2], want[3]
  due[id], changed[id] = now + want[2], true
  counts.leased, counts.delivered = counts.leased + 1, counts.delivered + 1
  if job[TRIES] > 1 then counts.redelivered = counts.redelivered + 1 end
  deliveries[#deliveries + 1] = {place, id, job[TRIES], fields}
  given[#given + 1] = {id, job[TRIES]}
end
local function may_go_on()
  return free > 0 and #deliveries < request.most and budget > 0
end
flush(ready_key, ready)
while may_go_on() do
  local some = redis.call('ZRANGE', ready_key, 0, math.min(free, request.most - #deliveries, 100) - 1)
  if #some == 0 then break end
  load(some)
  for _, id in ipairs(some) do
    if not may_go_on() then break end
    local job = cache[id]
    ready[id] = false
    if not job then
      budget = budget - 1024  -- it has been forgotten
    elseif job[TRIES] >= wants[turn][2][3] then
      die(id, job, job[REASON] ~= '' and job[REASON] or 'it was delivered as often as that before')
    else
      local fields = fields_of(id)
      if fields then
        lease(id, job, fields)
      else
        lost[#lost + 1] = id
        finish(id, job)
      end
    end
  end
  flush(ready_key, ready)
end
local number = tonumber(is[2]) or 0
if may_go_on() then
  local total, parked, step = redis.call('HLEN', jobs), redis.call('ZCARD', parked_key), 10
  while may_go_on() do
    if total >= 100000 or parked >= 1000 then break end
    local wanted = math.min(step, free, request.most - #deliveries, 1000 - parked)
    local some = redis.call('XREADGROUP', 'GROUP', group, 'rawws', 'COUNT', wanted, 'STREAMS', stream, '>')
    some = some and some[1] and some[1][2] or {}
    local size = 0
    for _, entry in ipairs(some) do
      local id, fields = entry[1], entry[2] or {}
      local sha = ''
      for place = 1, #fields, 2 do
        size = size + #fields[place] + #fields[place + 1]
        if fields[place] == 'key' then sha = redis.sha1hex(fields[place + 1]) end
      end
      number, total = number + 1, total + 1
      local job = {number, 0, 'R', '', 0, 0, '', sha}
      cache[id], changed[id] = job, true
      if sha ~= '' and redis.call('HSETNX', busy_key, sha, id) == 0 then
        job[AT], parked = 'P', parked + 1
        redis.call('ZADD', parked_key, 0, sha .. string.format('%016.0f', number) .. id)
      else
        lease(id, job, fields)
      end
    end
    counts.count = counts.count + #some
    budget = budget - math.max(size, 64 * #some)
    if #some < wanted then break end
    step = math.max(1, math.min(100, 2 * step, math.floor(budget / math.max(64, size / #some))))
  end
end

-- What has changed. A program that publishes by itself may have given the stream an expiry.
redis.call('PERSIST', stream)
local set, remove = {}, {}
for id in pairs(changed) do
  local job = cache[id]
  if job then
    set[#set + 1] = id
    set[#set + 1] = cmsgpack.pack(job)
  else
    remove[#remove + 1] = id
  end
end
in_chunks('HSET', jobs, set)
in_chunks('HDEL', jobs, remove)
flush(due_key, due)
flush(ready_key, ready)
for first = 1, #done, 1000 do
  redis.call('XACK', stream, group, unpack(done, first, math.min(first + 999, #done)))
end
for what, count in pairs(counts) do
  if count ~= 0 then redis.call('HINCRBY', state, what, count) end
end
if #given > 0 then
  redis.call('SET', marker_key, cmsgpack.pack({request.serial, given}), 'EX', 600)
end
if dead_last then
  if dead_of.groups then
    note_added(dead_stream, dead_of.groups, dead_last, dead_bytes, tonumber(ARGV[4]))
  else
    redis.call('EXPIRE', dead_stream, ARGV[6])
  end
  -- The size is checked once for so many bytes on average.
  if tonumber(time[2]) % 65536 < dead_bytes then cut(dead_stream, tonumber(ARGV[5]), dead_of.groups) end
end
if #done > 0 or redis.call('SISMEMBER', 'rawws:groups:full', path) == 1 then let_go(stream) end
if request.workers > 0 then
  redis.call('HSET', workers, request.node, string.format('%.0f %.0f', request.workers, now))
else
  redis.call('HDEL', workers, request.node)
end
if free > 0 and (budget <= 0 or #deliveries >= request.most) then
  is_more = true
elseif free > 0 then
  if is[3] ~= '1' then redis.call('HSET', state, 'hungry', 1) end
elseif is[3] == '1' and has_new_ready and redis.call('ZCARD', ready_key) > 0 then
  redis.call('HDEL', state, 'hungry')
  ring('work', name .. ' ' .. path)
end
local next = redis.call('ZRANGE', due_key, 0, 0, 'WITHSCORES')[2]
redis.call('ZADD', 'rawws:groups', next or '+inf', name .. ' ' .. path)
return {'OK', results, deliveries, dead, lost, next and math.max(0, tonumber(next) - now) or -1, is_more and 1 or 0,
  marker[1]}
"""
)
