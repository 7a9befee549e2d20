-- ARGV: host, incarnation
local hkey = key('host', ARGV[1])
if redis.call('HGET', hkey, 'incarnation') ~= ARGV[2] then return {'void'} end
-- Claims it still holds keep the host visible, so that they are not forgotten with it.
redis.call('ZADD', key('hosts'), '0', ARGV[1])
if redis.call('ZCARD', key('on', ARGV[1])) == 0 then
  redis.call('ZREM', key('hosts'), ARGV[1])
  redis.call('DEL', hkey)
end
return {'done'}
