-- ARGV: host, incarnation
notice_another_run()
local hkey = key('host', ARGV[1])
if redis.call('HGET', hkey, 'incarnation') ~= ARGV[2] then return {'void'} end
-- It has ended its agents. What it could not write of them is others' to take.
become_former(ARGV[1], ARGV[2], 'over', '0')
redis.call('ZREM', key('hosts'), ARGV[1])
redis.call('DEL', hkey)
return {'done'}
