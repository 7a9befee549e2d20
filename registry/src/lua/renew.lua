-- ARGV: host, incarnation, ttl ms, state, highest epoch, generation that was told all this host runs or empty
notice_another_run()
local hkey = key('host', ARGV[1])
local incarnation = redis.call('HGET', hkey, 'incarnation')
if not incarnation then return {'unknown'} end
if incarnation ~= ARGV[2] then return {'superseded'} end
raise_epoch(ARGV[5])
-- A host that was told to drain from outside does not know it.
local cordoned = redis.call('HGET', hkey, 'cordoned') == '1'
redis.call('HSET', hkey, 'state', cordoned and 'DRAINING' or ARGV[4])
redis.call('ZADD', key('hosts'), int(now_ms() + ARGV[3]), ARGV[1])
local gen = redis.call('GET', key('gen')) or ''
if ARGV[6] == gen then
  has_told(ARGV[1], ARGV[2])
elseif is_held() and redis.call('SISMEMBER', key('awaited'), ARGV[1] .. '|' .. ARGV[2]) == 1 then
  -- It lives on and has not told everything yet: nothing is decided without it, however long that takes.
  redis.call('SET', key('held_until'), int(now_ms() + redis.call('GET', key('hold'))))
end
return {'held', gen}
