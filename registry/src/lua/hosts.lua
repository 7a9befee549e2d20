-- Takes nothing. Answers now, store's life, whether it settles, how many agents wait for room, how many stops were counted; then of every host
-- its name and its hash; then of every former process `host|incarnation` and `state|ms`.
notice_another_run()
local out = {int(now_ms()), redis.call('GET', key('gen')) or '', is_held() and '1' or '0',
  tostring(redis.call('ZCARD', key('pending'))), redis.call('GET', key('stops')) or '0'}
local hosts = {}
for i, host in ipairs(redis.call('ZRANGE', key('hosts'), 0, -1)) do
  hosts[i] = {host, redis.call('HMGET', key('host', host), 'incarnation', 'address', 'state', 'capacity', 'used', 'labels',
    'version', 'cordoned', 'dns_name', 'life', 'renewals', 'lasts', 'ttl', 'renewed')}
end
return {out, hosts, redis.call('HGETALL', key('former'))}
