-- ARGV: store's life that the caller knew, name of the store's life if there is none, highest epoch, highest life, how many hosts, then of
-- each host, incarnation and ms that its lease lasts with its grace; then of each agent that was stopped member and epoch
notice_another_run()
be_born(ARGV[2])
if not is_lost(ARGV[1]) then return 0 end
raise_epoch(ARGV[3])
if tonumber(ARGV[4]) > tonumber(redis.call('GET', key('lives')) or '0') then redis.call('SET', key('lives'), ARGV[4]) end
local hosts = tonumber(ARGV[5])
for i = 6 + hosts * 3, #ARGV, 2 do
  local member, epoch = ARGV[i], ARGV[i + 1]
  -- What a store has of it that was rolled back is older than its stop.
  local old = redis.call('HMGET', key('agent', member), 'epoch', 'phase', 'host', 'incarnation', 'demand', 'machine_id')
  if old[1] and is_held() and tonumber(old[1]) <= tonumber(epoch) then
    if old[2] ~= 'PENDING' and old[2] ~= 'FAILED' then vacate(member, old[3], old[4], old[5]) end
    remove(string.match(member, '^[^:]*'), member, epoch, old[3], old[6])
  elseif not was_stopped(member, epoch) then
    bury(member, epoch)
  end
end
if not is_held() then return 0 end
settle_anew('lost')
for i = 6, 5 + hosts * 3, 3 do
  local here = redis.call('HGET', key('host', ARGV[i]), 'incarnation') == ARGV[i + 1]
  if not here and not former(ARGV[i], ARGV[i + 1]) then become_former(ARGV[i], ARGV[i + 1], 'awaited', ARGV[i + 2]) end
end
return 1
