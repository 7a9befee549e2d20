-- ARGV: host, incarnation, grace ms
notice_another_run()
local hkey = key('host', ARGV[1])
local deadline = redis.call('ZSCORE', key('hosts'), ARGV[1])
if not deadline or redis.call('HGET', hkey, 'incarnation') ~= ARGV[2] then return 0 end
if tonumber(deadline) + ARGV[3] > now_ms() or redis.call('ZCARD', key('on', ARGV[1])) > 0 then return 0 end
has_told(ARGV[1], ARGV[2])
redis.call('ZREM', key('hosts'), ARGV[1])
redis.call('DEL', hkey)
return 1
