-- ARGV: host, incarnation, address, capacity, labels, version, ttl ms, highest epoch, generation if there is none
local host, incarnation = ARGV[1], ARGV[2]
redis.call('SET', key('gen'), ARGV[9], 'NX')
raise_epoch(ARGV[8])
local hkey = key('host', host)
local voided = 0
local used = redis.call('HGET', hkey, 'used') or ''
if redis.call('HGET', hkey, 'incarnation') ~= incarnation then
  -- The process that made these claims is gone, and its agents with it.
  for _, member in ipairs(redis.call('ZRANGE', key('on', host), 0, -1)) do
    local akey = key('agent', member)
    local now = int(now_ms())
    redis.call('HSET', akey, 'phase', 'FAILED', 'pid', '0', 'updated', now,
      'reason', 'its host restarted and lost its processes; create the agent again')
    event(member, 'FAILED', redis.call('HGET', akey, 'epoch'), host)
    voided = voided + 1
  end
  redis.call('DEL', key('on', host))
  used = ''
end
redis.call('HSET', hkey, 'incarnation', incarnation, 'address', ARGV[3], 'state', 'READY', 'capacity', ARGV[4],
  'used', used, 'labels', ARGV[5], 'version', ARGV[6])
redis.call('ZADD', key('hosts'), int(now_ms() + ARGV[7]), host)
return {redis.call('GET', key('gen')), voided}
