-- Takes nothing. Answers now, store's life, whether it settles, how many agents wait for room, how many stops were counted, the latest epoch; then of every
-- host its name, its lease and its hash; then of every former process `host|incarnation` and `state|ms`.
notice_another_run()
local out = {int(now_ms()), store_life() or '', is_held() and '1' or '0',
  tostring(redis.call('ZCARD', key('pending'))), redis.call('GET', key('stops')) or '0', redis.call('GET', key('epoch')) or '0'}
local hosts = {}
for i, host in ipairs(hosts_with_lease()) do
  hosts[i] = {host, redis.call('HGET', key('leases'), host), redis.call('HMGET', key('host', host), 'incarnation', 'address', 'state', 'capacity', 'used', 'labels',
    'version', 'cordoned', 'dns_name', 'lasts', 'ttl', 'renewed')}
end
return {out, hosts, redis.call('HGETALL', key('former'))}
