-- ARGV: guild, member, epoch, host, incarnation, generation, phase, pid, restarts, reason, exit, name, request id, digest,
-- demand, on_disconnect, spec, launch, machine id, created ms, sequence,
-- generation that had the record, last lines
notice_another_run()
local guild, member, host = ARGV[1], ARGV[2], ARGV[4]
if is_lost(ARGV[6]) then return {'lost'} end
raise_epoch(ARGV[3])
local akey = key('agent', member)
local old = redis.call('HMGET', akey, 'epoch', 'phase', 'host', 'incarnation', 'demand', 'machine_id',
  'sequence')
if old[1] and tonumber(old[1]) > tonumber(ARGV[3]) then return {'stale', old[1]} end
if old[1] == ARGV[3] and old[4] ~= ARGV[5] then return {'stale', old[1]} end
-- Once the store has settled, what it has of an agent was decided without this host.
if old[1] and not is_held() and old[4] ~= ARGV[5] then return {'stale', old[1]} end
-- While hosts told what they run nobody was stopped or moved. Since then an agent that is not there was, unless its claim was
-- forgotten, or its host may be silent for as long as it likes.
local forgotten = is_wiped(ARGV[22]) or tonumber(ARGV[3]) > tonumber(redis.call('GET', key('known_epoch')) or ARGV[3])
if not old[1] and not is_held() and not forgotten and ARGV[16] == 'stop' then return {'gone'} end
if not old[1] and was_stopped(member, ARGV[3]) then return {'gone'} end
if old[1] == ARGV[3] and tonumber(ARGV[21]) < tonumber(old[7] or '0') then return {'done'} end
if redis.call('HGET', key('host', host), 'incarnation') ~= ARGV[5] then return {'lost'} end
if old[1] then displace(guild, member, old[2], old[3], old[4], old[5], old[6]) end
local now = int(now_ms())
redis.call('HSET', akey, 'phase', ARGV[7], 'host', host, 'incarnation', ARGV[5], 'epoch', ARGV[3], 'pid', ARGV[8],
  'restarts', ARGV[9], 'reason', ARGV[10], 'name', ARGV[12], 'request_id', ARGV[13], 'digest', ARGV[14],
  'demand', ARGV[15], 'on_disconnect', ARGV[16], 'spec', ARGV[17], 'launch', ARGV[18], 'machine_id', ARGV[19],
  'created', ARGV[20], 'updated', now, 'accepted', now, 'sequence', ARGV[21],
  'last_lines', ARGV[23])
if ARGV[7] == 'RUNNING' then redis.call('HSET', akey, 'running', now) end
if ARGV[11] ~= '' then redis.call('HSET', akey, 'exit', ARGV[11], 'exit_at', now) end
redis.call('HINCRBY', key('machines', guild), ARGV[19], 1)
redis.call('ZADD', key('agents'), 0, member)
redis.call('ZADD', key('guild', guild), 0, member)
if ARGV[7] ~= 'FAILED' then
  redis.call('ZADD', key('on', host), 0, member)
  reserve(host, parse_room(redis.call('HGET', key('host', host), 'used')), parse_room(ARGV[15]))
end
if old[1] ~= ARGV[3] or old[2] ~= ARGV[7] then event(member, ARGV[7], ARGV[3], host) end
return {'done'}
