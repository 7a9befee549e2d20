-- Takes host, incarnation, store? (life of it in which this was seen), and life and renewals: of a former process the last that it
-- had, zeros if it had none here.
notice_another_run()
if is_lost(ask.store) then return 0 end
local host, incarnation = ask.host, ask.incarnation
local hkey = key('host', host)
local h = redis.call('HMGET', hkey, 'incarnation', 'life', 'renewals')
if h[1] == incarnation then
  if h[2] ~= ask.life or h[3] ~= ask.renewals then return 0 end
  redis.call('ZREM', key('hosts'), host)
  redis.call('DEL', hkey)
else
  -- It may have renewed before it lost its name: then it was not seen to be silent.
  local state, seen = former(host, incarnation)
  if (state ~= 'silent' and state ~= 'awaited') or seen ~= ask.life .. '|' .. ask.renewals then return 0 end
end
become_former(host, incarnation, 'over', '0')
return 1
