-- Takes member, epoch, phase (PENDING or FAILED), restarts, condition, last_lines, exit?, exit_at?, running?, agent, launch, former_store_life? (store's
-- life that had the record).
notice_another_run()
local member, epoch, former_store_life = ask.member, ask.epoch, ask.former_store_life
-- Once hosts have reported, an agent that is not there was stopped or moved; before, none was.
local known = redis.call('GET', key('known_epoch'))
local forgotten = is_wiped(former_store_life) or (known and tonumber(epoch) > tonumber(known))
local akey = key('agent', member)
local old = redis.call('HMGET', akey, 'epoch', 'phase', 'host', 'incarnation', 'takes', 'machine_id', 'accepted')
-- An older claim that no host has accepted gives way at any time: now none ever will.
local may_go = old[1] and not old[7]
if not (is_lost(former_store_life) and forgotten and (is_held() or may_go)) or was_stopped(member, epoch) then return {'void'} end
if old[1] and tonumber(old[1]) >= tonumber(epoch) then return {'void'} end
raise_epoch(epoch)
if old[1] then displace(member, old[2], old[3], old[4], old[5], old[6]) end
clear(akey)
write_agent(member)
write_state(akey, int(now_ms()))
redis.call('HSET', akey, 'host', '', 'incarnation', '', 'epoch', epoch, 'order', epoch)
if ask.running then redis.call('HSET', akey, 'running', ask.running) end
if ask.phase == 'PENDING' then join_line(member, ask.agent.demand, epoch) end
event(member, ask.phase, epoch, '')
return {'done'}
