-- ARGV: guild, member, name, request id, digest, demand, on_disconnect, spec, launch, candidate hosts...
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

local now = now_ms()
local demand = parse_room(ARGV[6])
local host, incarnation, used
for i = 10, #ARGV do
  local deadline = redis.call('ZSCORE', key('hosts'), ARGV[i])
  if deadline and tonumber(deadline) > now then
    local h = redis.call('HMGET', key('host', ARGV[i]), 'incarnation', 'state', 'capacity', 'used')
    used = parse_room(h[4])
    if h[1] and h[2] == 'READY' and fits(parse_room(h[3]), used, demand) then
      host, incarnation = ARGV[i], h[1]
      break
    end
  end
end
if not host then return {'full'} end

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

local epoch = int(redis.call('INCR', key('epoch')))
for name, milli in pairs(demand) do used[name] = (used[name] or 0) + milli end
redis.call('HSET', key('host', host), 'used', format_room(used))
redis.call('DEL', akey)
redis.call('HSET', akey, 'phase', 'STARTING', 'host', host, 'incarnation', incarnation, 'epoch', epoch,
  'name', ARGV[3], 'request_id', ARGV[4], 'digest', ARGV[5], 'demand', ARGV[6], 'on_disconnect', ARGV[7],
  'spec', ARGV[8], 'launch', ARGV[9], 'machine_id', machine, 'restarts', '0', 'pid', '0', 'reason', '',
  'created', int(now), 'updated', int(now))
redis.call('ZADD', key('agents'), 0, member)
redis.call('ZADD', key('guild', guild), 0, member)
redis.call('ZADD', key('on', host), 0, member)
event(member, 'STARTING', epoch, host)
return {'claimed', host, incarnation, epoch, machine}
