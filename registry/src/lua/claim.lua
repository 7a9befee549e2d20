-- ARGV: guild, member, name, request id, digest, demand, on_disconnect, spec, launch, if full ("refuse" or "wait"),
-- store's life known or empty, stops that it had counted when the caller asked, what its first start must do, candidate hosts...
notice_another_run()
-- What the store says of an agent may not be so while hosts are telling, or before the caller has.
if is_lost(ARGV[11]) or is_held() or redis.call('EXISTS', key('gen')) == 0 then return {'held'} end
local guild, member = ARGV[1], ARGV[2]
local akey = key('agent', member)
local old = redis.call('HMGET', akey, 'phase', 'digest', 'request_id', 'machine_id')
local phase = old[1]
if phase == 'STOPPING' then return {'stopping'} end
if phase and phase ~= 'FAILED' then
  if old[2] == ARGV[5] then return {'exists'} end
  return {'conflict', phase}
end
if phase and old[2] == ARGV[5] and old[3] == ARGV[4] then return {'exists'} end
-- Whoever asked may have been told that it failed, and have stopped the agent since. If it still waits, it asks once more.
if was_stopped_since(member, tonumber(ARGV[12])) then return {'late', redis.call('GET', key('stops')) or '0'} end

local demand, waits = parse_room(ARGV[6]), ARGV[10] == 'wait'
local host, incarnation, used = pick(demand, 14, '+inf')
if not host and not waits then return {'full'} end

-- Smallest free machine id of the guild; when all are taken, the least shared one. A FAILED record keeps its own.
local machine = old[4]
if not machine then
  local taken, mkey = {}, key('machines', guild)
  local flat = redis.call('HGETALL', mkey)
  for i = 1, #flat, 2 do taken[flat[i]] = tonumber(flat[i + 1]) end
  local least = math.huge
  for id = 1, 255 do
    local count = taken[tostring(id)] or 0
    if count < least then machine, least = tostring(id), count end
    if count == 0 then break end
  end
  redis.call('HINCRBY', mkey, machine, 1)
end

clear(akey)
redis.call('HSET', akey, 'first_start', ARGV[13], 'name', ARGV[3], 'request_id', ARGV[4], 'digest', ARGV[5], 'demand', ARGV[6],
  'on_disconnect', ARGV[7], 'spec', ARGV[8], 'launch', ARGV[9], 'machine_id', machine, 'restarts', '0',
  'created', int(now_ms()))
redis.call('ZADD', key('agents'), 0, member)
redis.call('ZADD', key('guild', guild), 0, member)
if not host then
  wait_for_room(member, 'no host has room for it; it starts as soon as one has')
  return {'waits'}
end
reserve(host, used, demand)
local epoch = seat(member, host, incarnation)
redis.call('HSET', akey, 'order', epoch)
return {'claimed', host, incarnation, epoch, machine}
