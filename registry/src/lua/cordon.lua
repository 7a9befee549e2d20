-- Takes host, cordoned: whether it takes no agents.
notice_another_run()
local hkey = key('host', ask.host)
local before = redis.call('HGET', hkey, 'cordoned')
if not before then return 0 end
local cordoned = ask.cordoned and '1' or '0'
if before ~= cordoned then
  redis.call('HSET', hkey, 'cordoned', cordoned)
  host_changed(ask.host)
end
return 1
