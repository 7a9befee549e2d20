-- ARGV: host, whether it takes no agents ("1" or "0")
notice_another_run()
local hkey = key('host', ARGV[1])
if not redis.call('HGET', hkey, 'incarnation') then return 0 end
redis.call('HSET', hkey, 'cordoned', ARGV[2])
return 1
