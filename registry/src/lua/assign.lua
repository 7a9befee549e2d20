-- Takes member, epoch, candidates (as `claim` does).
notice_another_run()
local member = ask.member
local akey = key('agent', member)
local old = redis.call('HMGET', akey, 'phase', 'epoch', 'demand', 'machine_id', 'running', 'order')
if old[1] ~= 'PENDING' or old[2] ~= ask.epoch then return {'changed'} end
if is_held() then return {'held'} end
local demand = parse_room(old[3])
-- Who ran before takes no room from anybody who did not have it before.
local host, incarnation, used, takes = pick(demand, not old[5] and old[6])
if not host then return {'full'} end
reserve(host, used, takes)
takes = format_room(takes)
return {'claimed', host, incarnation, assign(member, host, incarnation, takes), old[4], takes}
