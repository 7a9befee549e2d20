-- ARGV: guild, member, epoch, guard (reaped, unaccepted, unhosted, expired), grace ms of expired, what it becomes (gone,
-- pending), reason to be pending
local guild, member, guard = ARGV[1], ARGV[2], ARGV[4]
local akey = key('agent', member)
local old = redis.call('HMGET', akey, 'phase', 'epoch', 'host', 'incarnation', 'demand', 'accepted', 'machine_id',
  'on_disconnect')
local phase = old[1]
if not phase then return {'gone'} end
if old[2] ~= ARGV[3] then return {'stale', old[2]} end
local holds_room = phase ~= 'PENDING' and phase ~= 'FAILED'
if guard == 'unaccepted' and (old[6] or not holds_room) then return {'guarded', phase} end
if guard == 'unhosted' and holds_room then return {'guarded', phase} end
if guard == 'expired' then
  if not holds_room then return {'guarded', phase} end
  local ended, another_life = has_ended(old[3], old[4], tonumber(ARGV[5]))
  if not (ended and (old[8] == 'stop' or another_life)) then return {'guarded', phase} end
end
if ARGV[6] == 'pending' and not holds_room then return {'guarded', phase} end

if holds_room then vacate(member, old[3], old[4], old[5]) end
-- Stop wins: an agent that was being stopped does not come back.
if ARGV[6] == 'pending' and phase ~= 'STOPPING' then
  wait_for_room(member, ARGV[7])
else
  remove(guild, member, ARGV[3], old[3], old[7])
end
return {'released'}
