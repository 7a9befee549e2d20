-- ARGV: host, incarnation, life, state, highest epoch, store's life, whether that was told all this host runs ("1" or "0")
notice_another_run()
if is_lost(ARGV[6]) then return {'lost'} end
local host, incarnation = ARGV[1], ARGV[2]
local hkey = key('host', host)
local h = redis.call('HMGET', hkey, 'incarnation', 'life', 'cordoned')
if h[1] and h[1] ~= incarnation then return {'superseded'} end
if not h[1] then return {former(host, incarnation) and 'retired' or 'unknown'} end
-- A later announcement of its own, whose answer it has not had: nobody has taken anything.
if h[2] ~= ARGV[3] then return {'lost'} end
raise_epoch(ARGV[5])
redis.call('HINCRBY', hkey, 'renewals', 1)
redis.call('HSET', hkey, 'state', ARGV[4], 'renewed', int(now_ms()))
if ARGV[7] == '1' then redis.call('HSET', hkey, 'telling', '0') end
return {'held', h[3], redis.call('GET', key('stops')) or '0'}
