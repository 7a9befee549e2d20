-- ARGV: host, incarnation, address, capacity, labels, version, ttl ms, highest epoch, generation if there is none,
-- incarnation that has certainly ended or empty, generation known before or empty, ms to hold after a loss, DNS name
local host, incarnation = ARGV[1], ARGV[2]
notice_another_run()
redis.call('SET', key('gen'), ARGV[9], 'NX')
redis.call('SET', key('hold'), ARGV[12])
if is_wiped(ARGV[11]) then hold(ARGV[12]) end
-- It has something to tell, and nothing was decided without it yet.
if is_lost(ARGV[11]) and is_held() then
  await(host, incarnation)
  -- As long as it may take, or as its lease lasts; shorter again when it has told.
  redis.call('SET', key('held_until'), int(now_ms() + ARGV[12]))
end
raise_epoch(ARGV[8])
local hkey = key('host', host)
local before = redis.call('HMGET', hkey, 'incarnation', 'former_until')
local returned = 0
if before[1] and before[1] ~= incarnation then
  local ended = before[1] == ARGV[10]
  if ended then has_told(host, before[1]) end
  if ended and not is_held() then
    -- The process that made these claims has ended, and its agents with it: they are the new life's, under new epochs.
    redis.call('HSET', hkey, 'incarnation', incarnation)
    for _, member in ipairs(redis.call('ZRANGE', key('on', host), 0, -1)) do
      local agent = redis.call('HMGET', key('agent', member), 'phase', 'epoch', 'incarnation', 'machine_id', 'demand')
      if agent[3] == before[1] then
        if agent[1] == 'STOPPING' then
          vacate(member, host, incarnation, agent[5])
          remove(string.match(member, '^[^:]*'), member, agent[2], host, agent[4])
        else
          seat(member, host, incarnation)
          returned = returned + 1
        end
      end
    end
  else
    -- Nobody knows whether that process has ended before its lease has; or it has, but hosts are telling whose its agents are.
    local until_then = ended and int(now_ms()) or redis.call('ZSCORE', key('hosts'), host) or '0'
    if tonumber(until_then) > tonumber(before[2] or '0') then redis.call('HSET', hkey, 'former_until', until_then) end
    -- A life that had the name before, and lost it to one that is over now, has its claims still.
    redis.call('HSET', hkey, 'used', '')
    local used = {}
    for _, member in ipairs(redis.call('ZRANGE', key('on', host), 0, -1)) do
      local agent = redis.call('HMGET', key('agent', member), 'incarnation', 'demand')
      if agent[1] == incarnation then reserve(host, used, parse_room(agent[2])) end
    end
  end
end
if before[1] ~= incarnation then redis.call('HDEL', hkey, 'cordoned') end
local state = redis.call('HGET', hkey, 'cordoned') == '1' and 'DRAINING' or 'READY'
redis.call('HSET', hkey, 'incarnation', incarnation, 'address', ARGV[3], 'state', state, 'capacity', ARGV[4],
  'used', redis.call('HGET', hkey, 'used') or '', 'labels', ARGV[5], 'version', ARGV[6],
  'dns_name', ARGV[13])
redis.call('ZADD', key('hosts'), int(now_ms() + ARGV[7]), host)
return {redis.call('GET', key('gen')), returned}
