-- ARGV: host, incarnation, address, capacity, labels, version, ms that a lease lasts with its grace, highest epoch, highest life,
-- name of the store's life if there is none, incarnation that has certainly ended or empty, store's life known before or empty,
-- store's life that was told all this host runs or empty, DNS name, state, cordoned ("1" or "0"), ttl ms
local host, incarnation, ended = ARGV[1], ARGV[2], ARGV[11]
notice_another_run()
be_born(ARGV[10])
-- It has something to tell, and nothing was decided without it yet.
local telling = is_held() and ARGV[12] ~= '' and is_lost(ARGV[13] == '' and '?' or ARGV[13])
if telling and is_lost(ARGV[12]) then settle_anew('lost') end
raise_epoch(ARGV[8])
local hkey = key('host', host)
local before = redis.call('HMGET', hkey, 'incarnation', 'lasts', 'life', 'renewals', 'telling', 'cordoned')
if before[1] and before[1] ~= incarnation then
  -- One that was telling runs what nobody knows of: the store does not settle before it is retired.
  local state = before[1] == ended and 'over' or (before[5] == '1' and 'awaited' or 'silent')
  become_former(host, before[1], state, before[2], before[3], before[4])
end
-- Who drains it said so here, perhaps since the host heard of it last; a store that was lost is told by the host.
local cordoned = ARGV[16]
if before[1] == incarnation and not is_lost(ARGV[12]) then cordoned = before[6] end
redis.call('HDEL', key('former'), host .. '|' .. incarnation)
local returned = 0
if ended ~= '' and ended ~= incarnation and former(host, ended) then
  become_former(host, ended, 'over', '0')
  if not is_held() then
    returned = give_back(host, ended, incarnation)
    redis.call('HDEL', key('former'), host .. '|' .. ended)
  end
end
local life = math.max(tonumber(redis.call('GET', key('lives')) or '0'), tonumber(ARGV[9])) + 1
redis.call('SET', key('lives'), int(life))
redis.call('HSET', hkey, 'incarnation', incarnation, 'life', int(life), 'renewals', '0', 'lasts', ARGV[7], 'ttl', ARGV[17],
  'address', ARGV[3], 'state', ARGV[15], 'cordoned', cordoned, 'capacity', ARGV[4], 'used', claimed_by(host, incarnation),
  'labels', ARGV[5], 'version', ARGV[6], 'dns_name', ARGV[14], 'telling', telling and '1' or '0', 'renewed', int(now_ms()))
redis.call('ZADD', key('hosts'), 0, host)
return {redis.call('GET', key('gen')), int(life), int(returned), redis.call('GET', key('stops')) or '0'}
