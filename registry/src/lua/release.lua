-- ARGV: guild, member, epoch, guard (reaped, unaccepted, unhosted, expired), grace ms of expired
local guild, member, guard = ARGV[1], ARGV[2], ARGV[4]
local akey = key('agent', member)
local old = redis.call('HMGET', akey, 'phase', 'epoch', 'host', 'incarnation', 'demand', 'accepted', 'machine_id',
  'on_disconnect')
local phase = old[1]
if not phase then return {'gone'} end
if old[2] ~= ARGV[3] then return {'stale', old[2]} end
local holds_room = phase ~= 'PENDING' and phase ~= 'FAILED'
if guard == 'unaccepted' and old[6] then return {'guarded', phase} end
if guard == 'unhosted' and holds_room then return {'guarded', phase} end
if guard == 'expired' then
  local life = redis.call('HGET', key('host', old[3]), 'incarnation')
  local deadline = redis.call('ZSCORE', key('hosts'), old[3])
  local over = deadline and tonumber(deadline) + ARGV[5] <= now_ms()
  local ended = life and (life ~= old[4] or over)
  if not (holds_room and old[8] == 'stop' and ended) then return {'guarded', phase} end
end

if holds_room then vacate(member, old[3], old[4], old[5]) end
local mkey = key('machines', guild)
if redis.call('HINCRBY', mkey, old[7], -1) <= 0 then redis.call('HDEL', mkey, old[7]) end
redis.call('DEL', akey)
redis.call('ZREM', key('agents'), member)
redis.call('ZREM', key('guild', guild), member)
event(member, '', ARGV[3], old[3] or '')
return {'released'}
