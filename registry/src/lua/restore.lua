-- Takes what `advance` does, and host, incarnation, takes, agent (without first_start), launch, former_store_life? (store's life that had the record).
notice_another_run()
local member, host, incarnation, epoch = ask.member, ask.host, ask.incarnation, ask.epoch
if is_lost(ask.store_life) then return {'lost'} end
raise_epoch(epoch)
local akey = key('agent', member)
local old = redis.call('HMGET', akey, 'epoch', 'phase', 'host', 'incarnation', 'takes', 'machine_id',
  'sequence')
if old[1] and tonumber(old[1]) > tonumber(epoch) then return {'stale', old[1]} end
if old[1] == epoch and old[4] ~= incarnation then return {'stale', old[1]} end
-- Once the store has settled, what it has of an agent was decided without this host.
if old[1] and not is_held() and old[4] ~= incarnation then return {'stale', old[1]} end
-- While hosts reported what they run, no agent was stopped or moved. Since then an agent that is not there was, unless its claim was
-- forgotten, or its host may be silent for as long as it likes.
local forgotten = is_wiped(ask.former_store_life) or tonumber(epoch) > tonumber(redis.call('GET', key('known_epoch')) or epoch)
if not old[1] and not is_held() and not forgotten and ask.agent.on_disconnect == 'stop' then return {'gone'} end
if not old[1] and was_stopped(member, epoch) then return {'gone'} end
if old[1] == epoch and tonumber(ask.sequence) < tonumber(old[7] or '0') then return {'done'} end
if redis.call('HGET', key('host', host), 'incarnation') ~= incarnation then return {'lost'} end
if old[1] then displace(member, old[2], old[3], old[4], old[5], old[6]) end
local now = int(now_ms())
write_agent(member)
write_state(akey, now)
redis.call('HSET', akey, 'host', host, 'incarnation', incarnation, 'epoch', epoch, 'accepted', now, 'takes', ask.takes)
if ask.phase == 'RUNNING' then redis.call('HSET', akey, 'running', now) end
if ask.phase ~= 'FAILED' then
  redis.call('ZADD', key('on', host), 0, member)
  reserve(host, parse_room(redis.call('HGET', key('host', host), 'used')), parse_room(ask.takes))
end
if old[1] ~= epoch or old[2] ~= ask.phase then event(member, ask.phase, epoch, host) end
return {'done'}
