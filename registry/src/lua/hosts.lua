-- No ARGV. Answers now, generation, whether hosts are telling what they run and how many agents wait for room, then host,
-- deadline and its hash, for every host.
notice_another_run()
local out = {int(now_ms()), redis.call('GET', key('gen')) or '', is_held() and '1' or '0',
  redis.call('ZCARD', key('pending'))}
local flat = redis.call('ZRANGE', key('hosts'), 0, -1, 'WITHSCORES')
for i = 1, #flat, 2 do
  out[#out + 1] = {flat[i], flat[i + 1], redis.call('HMGET', key('host', flat[i]),
    'incarnation', 'address', 'state', 'capacity', 'used', 'labels', 'version', 'former_until', 'cordoned',
    'dns_name')}
end
return out
