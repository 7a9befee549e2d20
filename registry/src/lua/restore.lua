-- ARGV: guild, member, epoch, host, incarnation, generation, phase, pid, restarts, reason, exit, name, request id, digest,
-- demand, on_disconnect, spec, launch, machine id, created ms
local guild, member, host = ARGV[1], ARGV[2], ARGV[4]
if is_lost(ARGV[6]) then return {'lost'} end
raise_epoch(ARGV[3])
local akey = key('agent', member)
local epoch = redis.call('HGET', akey, 'epoch')
if epoch and tonumber(epoch) > tonumber(ARGV[3]) then return {'stale', epoch} end
if epoch == ARGV[3] then return {'done'} end
local life = redis.call('HMGET', key('host', host), 'incarnation', 'used')
if life[1] ~= ARGV[5] then return {'lost'} end
local now = int(now_ms())
redis.call('HSET', akey, 'phase', ARGV[7], 'host', host, 'incarnation', ARGV[5], 'epoch', ARGV[3], 'pid', ARGV[8],
  'restarts', ARGV[9], 'reason', ARGV[10], 'name', ARGV[12], 'request_id', ARGV[13], 'digest', ARGV[14],
  'demand', ARGV[15], 'on_disconnect', ARGV[16], 'spec', ARGV[17], 'launch', ARGV[18], 'machine_id', ARGV[19],
  'created', ARGV[20], 'updated', now, 'accepted', now)
if ARGV[7] == 'RUNNING' then redis.call('HSET', akey, 'running', now) end
if ARGV[11] ~= '' then redis.call('HSET', akey, 'exit', ARGV[11], 'exit_at', now) end
redis.call('HINCRBY', key('machines', guild), ARGV[19], 1)
redis.call('ZADD', key('agents'), 0, member)
redis.call('ZADD', key('guild', guild), 0, member)
if ARGV[7] ~= 'FAILED' then
  redis.call('ZADD', key('on', host), 0, member)
  reserve(host, parse_room(life[2]), parse_room(ARGV[15]))
end
event(member, ARGV[7], ARGV[3], host)
return {'done'}
