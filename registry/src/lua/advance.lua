-- Takes member, epoch, phase, pid?, restarts, condition, last_lines, exit? ("code:N" or "signal:N"), store_life?, sequence.
notice_another_run()
if is_lost(ask.store_life) then return {'lost'} end
local member, next_phase = ask.member, ask.phase
local akey = key('agent', member)
local old = redis.call('HMGET', akey, 'phase', 'epoch', 'host', 'incarnation', 'takes', 'accepted', 'sequence')
local phase, host = old[1], old[3]
if not phase then return {'gone'} end
if old[2] ~= ask.epoch then return {'stale', old[2]} end
-- A claim that nobody has accepted may be one that was taken back in writes that were lost: another host may have the agent, and
-- will report it. The claim is offered again when the store has settled.
if not old[6] and is_held() then return {'lost'} end
-- Its agents are others' to take; those that are not taken are its own again once it has announced itself anew.
if phase ~= 'PENDING' and phase ~= 'FAILED' and not is_live(host, old[4]) then return {'retired'} end

-- A write that was overtaken by a later one, as when Redis was frozen while its caller gave up and wrote again.
if tonumber(ask.sequence) < tonumber(old[7] or '0') then return {'done'} end

local legal
if phase == 'STOPPING' or phase == 'FAILED' then legal = next_phase == phase
else legal = phase ~= 'PENDING' and next_phase ~= 'PENDING' end
if not legal then return {'illegal', phase} end

local now = int(now_ms())
write_state(akey, now)
if not old[6] then
  redis.call('HSET', akey, 'accepted', now)
  redis.call('ZREM', key('unaccepted'), member)
end
if next_phase == 'RUNNING' and phase ~= 'RUNNING' then redis.call('HSET', akey, 'running', now) end
if next_phase == 'FAILED' and phase ~= 'FAILED' then free_room(member, host, old[4], old[5]) end
if next_phase ~= phase then event(member, next_phase, ask.epoch, host) end
return {'done'}
