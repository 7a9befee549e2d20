-- Takes former_store_life (store's life that the caller knew), new_life (name of the store's life if there is none), highest_epoch, highest_life,
-- hosts (each with host, incarnation, and lasts, the ms that its lease lasts with its grace), stopped (each with member and epoch).
notice_another_run()
be_born(ask.new_life)
if not is_lost(ask.former_store_life) then return 0 end
raise_epoch(with_unheard(ask.highest_epoch))
if tonumber(ask.highest_life) > tonumber(redis.call('GET', key('lives')) or '0') then
  redis.call('SET', key('lives'), ask.highest_life)
end
for _, stop in ipairs(ask.stopped) do
  local member, epoch = stop.member, stop.epoch
  -- What a store has of it that was rolled back is older than its stop.
  local old = redis.call('HMGET', key('agent', member), 'epoch', 'phase', 'host', 'incarnation', 'takes', 'machine_id')
  if old[1] and is_held() and tonumber(old[1]) <= tonumber(epoch) then
    if old[2] ~= 'PENDING' and old[2] ~= 'FAILED' then free_room(member, old[3], old[4], old[5]) end
    remove(member, epoch, old[3], old[6])
  elseif not was_stopped(member, epoch) then
    bury(member, epoch)
  end
end
if not is_held() then return 0 end
settle_anew('lost')
for _, process in ipairs(ask.hosts) do
  local host, incarnation = process.host, process.incarnation
  local here = redis.call('HGET', key('host', host), 'incarnation') == incarnation
  if not here and not former(host, incarnation) then become_former(host, incarnation, 'awaited', process.lasts) end
end
return 1
