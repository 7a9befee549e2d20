-- No ARGV. Answers now and generation, then host, deadline and its hash, for every host.
local out = {int(now_ms()), redis.call('GET', key('gen')) or ''}
local flat = redis.call('ZRANGE', key('hosts'), 0, -1, 'WITHSCORES')
for i = 1, #flat, 2 do
  out[#out + 1] = {flat[i], flat[i + 1], redis.call('HMGET', key('host', flat[i]),
    'incarnation', 'address', 'state', 'capacity', 'used', 'labels', 'version', 'former_until', 'cordoned')}
end
return out
