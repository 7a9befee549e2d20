-- ARGV: host, incarnation
notice_another_run()
local hkey = key('host', ARGV[1])
if redis.call('HGET', hkey, 'incarnation') ~= ARGV[2] then return {'void'} end
has_told(ARGV[1], ARGV[2])
-- Claims it still holds keep the host visible, so that they are not forgotten with it.
redis.call('ZADD', key('hosts'), '0', ARGV[1])
if redis.call('ZCARD', key('on', ARGV[1])) == 0 then
  redis.call('ZREM', key('hosts'), ARGV[1])
  redis.call('DEL', hkey)
end
return {'done'}
