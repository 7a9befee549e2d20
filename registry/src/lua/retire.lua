-- Takes host, incarnation, store? (life of it in which this was seen), and life and renewals: of a former process the last that it
-- had, zeros if it had none here.
notice_another_run()
if is_lost(ask.store_life) then return 0 end
local host, incarnation = ask.host, ask.incarnation
local holds = redis.call('HGET', key('host', host), 'incarnation') == incarnation
if holds then
  local life, renewals = lease(host)
  if life ~= ask.life or renewals ~= ask.renewals then return 0 end
else
  -- It may have renewed before it lost its name: then it was not seen to be silent.
  local state, seen = former(host, incarnation)
  if (state ~= 'silent' and state ~= 'awaited') or seen ~= ask.life .. '|' .. ask.renewals then return 0 end
end
become_former(host, incarnation, 'over', '0')
if holds then end_lease(host) else host_changed(host) end
return 1
