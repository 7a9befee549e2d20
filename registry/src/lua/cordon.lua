-- Takes host, cordoned: whether it takes no agents.
notice_another_run()
local hkey = key('host', ask.host)
if not redis.call('HGET', hkey, 'incarnation') then return 0 end
redis.call('HSET', hkey, 'cordoned', ask.cordoned and '1' or '0')
return 1
