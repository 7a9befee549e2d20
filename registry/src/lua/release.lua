-- Takes member, epoch, guard (reaped, vouched, unaccepted, unassigned, failed, retired, ended), store_life?, pending? (why it becomes PENDING;
-- absent: its record goes).
notice_another_run()
local member, guard = ask.member, ask.guard
-- While hosts still report, only the agent's host knows how it is.
if is_lost(ask.store_life) or (guard ~= 'reaped' and is_held()) then return {'lost'} end
local akey = key('agent', member)
local old = redis.call('HMGET', akey, 'phase', 'epoch', 'host', 'incarnation', 'takes', 'accepted', 'machine_id',
  'on_disconnect')
local phase = old[1]
if not phase then return {'gone'} end
-- A host has had the agent since, in writes that were lost: what is known of it is over as well.
local forgotten = guard == 'reaped' and tonumber(ask.epoch) > tonumber(old[2])
if old[2] ~= ask.epoch and not forgotten then return {'stale', old[2]} end
if forgotten then raise_epoch(ask.epoch) end
local holds_room = phase ~= 'PENDING' and phase ~= 'FAILED'
if guard == 'unaccepted' and (old[6] or not holds_room) then return {'guarded', phase} end
if guard == 'unassigned' and holds_room then return {'guarded', phase} end
if guard == 'failed' and phase ~= 'FAILED' then return {'guarded', phase} end
if guard == 'ended' or guard == 'retired' then
  if not holds_room or is_live(old[3], old[4]) then return {'guarded', phase} end
  -- One that outlives its lease has ended when another process has its host's name.
  if guard == 'ended' and old[8] ~= 'stop' and redis.call('EXISTS', key('host', old[3])) == 0 then return {'guarded', phase} end
end
if ask.pending and not (holds_room or forgotten or guard == 'failed') then return {'guarded', phase} end

if holds_room then free_room(member, old[3], old[4], old[5]) end
-- Stop wins: an agent that was being stopped does not come back.
if ask.pending and phase ~= 'STOPPING' then
  if guard == 'failed' then redis.call('HSET', akey, 'restarts', '0', 'last_lines', '') end
  wait_for_room(member, ask.pending)
else
  remove(member, ask.epoch, old[3], old[7])
end
return {'released'}
