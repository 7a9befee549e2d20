-- Takes host, incarnation, life, state, highest_epoch, store_life?, reported: whether everything that this host runs was reported to it.
notice_another_run()
if is_lost(ask.store_life) then return {'lost'} end
local host, incarnation = ask.host, ask.incarnation
local hkey = key('host', host)
local h = redis.call('HMGET', hkey, 'incarnation', 'state', 'cordoned')
if h[1] and h[1] ~= incarnation then return {'superseded'} end
if not h[1] then return {former(host, incarnation) and 'retired' or 'unknown'} end
-- A later announcement of its own, whose answer it has not had: nobody has taken anything.
local life, renewals = lease(host)
if life ~= ask.life then return {'lost'} end
raise_epoch(ask.highest_epoch)
set_lease(host, life, renewals + 1)
redis.call('HSET', hkey, 'state', ask.state, 'renewed', int(now_ms()))
if ask.reported then redis.call('HSET', hkey, 'reporting', '0') end
if h[2] ~= ask.state then host_changed(host) end
return {'held', h[3], redis.call('GET', key('stops')) or '0', redis.call('GET', key('epoch'))}
