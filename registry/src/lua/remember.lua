-- ARGV: guild, member, epoch, phase (PENDING or FAILED), store's life that had the record, name, request id,
-- digest, demand, on_disconnect, spec, launch, machine id, created ms, restarts, reason, exit, ms of that, last lines, running ms,
-- what its first start must do
notice_another_run()
local guild, member, had = ARGV[1], ARGV[2], ARGV[5]
-- Once hosts have told, what is not there was stopped or moved; before, nobody was.
local known = redis.call('GET', key('known_epoch'))
local forgotten = is_wiped(had) or (known and tonumber(ARGV[3]) > tonumber(known))
local akey = key('agent', member)
local old = redis.call('HMGET', akey, 'epoch', 'phase', 'host', 'incarnation', 'demand', 'machine_id', 'accepted')
-- An older claim that no host has accepted gives way at any time: now none ever will.
local may_go = old[1] and not old[7]
if not (is_lost(had) and forgotten and (is_held() or may_go)) or was_stopped(member, ARGV[3]) then return {'void'} end
if old[1] and tonumber(old[1]) >= tonumber(ARGV[3]) then return {'void'} end
raise_epoch(ARGV[3])
if old[1] then displace(guild, member, old[2], old[3], old[4], old[5], old[6]) end
clear(akey)
redis.call('HSET', akey, 'phase', ARGV[4], 'host', '', 'incarnation', '', 'epoch', ARGV[3], 'pid', '0',
  'restarts', ARGV[15], 'reason', ARGV[16], 'name', ARGV[6], 'request_id', ARGV[7], 'digest', ARGV[8],
  'demand', ARGV[9], 'on_disconnect', ARGV[10], 'spec', ARGV[11], 'launch', ARGV[12], 'machine_id', ARGV[13],
  'created', ARGV[14], 'updated', int(now_ms()), 'last_lines', ARGV[19])
if ARGV[17] ~= '' then redis.call('HSET', akey, 'exit', ARGV[17], 'exit_at', ARGV[18]) end
if ARGV[20] ~= '' then redis.call('HSET', akey, 'running', ARGV[20]) end
redis.call('HINCRBY', key('machines', guild), ARGV[13], 1)
redis.call('ZADD', key('agents'), 0, member)
redis.call('ZADD', key('guild', guild), 0, member)
redis.call('HSET', akey, 'first_start', ARGV[21], 'order', ARGV[3])
if ARGV[4] == 'PENDING' then join_line(member, ARGV[9], ARGV[3]) end
event(member, ARGV[4], ARGV[3], '')
return {'done'}
