-- ARGV: host, incarnation, life, renewals, store's life. Of a former process the last that it had; zeros if it had none here.
notice_another_run()
if is_lost(ARGV[5]) then return 0 end
local host, incarnation = ARGV[1], ARGV[2]
local hkey = key('host', host)
local h = redis.call('HMGET', hkey, 'incarnation', 'life', 'renewals')
if h[1] == incarnation then
  if h[2] ~= ARGV[3] or h[3] ~= ARGV[4] then return 0 end
  redis.call('ZREM', key('hosts'), host)
  redis.call('DEL', hkey)
else
  -- It may have renewed before it lost its name: then it was not seen to be silent.
  local state, seen = former(host, incarnation)
  if (state ~= 'silent' and state ~= 'awaited') or seen ~= ARGV[3] .. '|' .. ARGV[4] then return 0 end
end
become_former(host, incarnation, 'over', '0')
return 1
