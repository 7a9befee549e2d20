-- Takes host, incarnation, address, dns_name, capacity, labels, version, state, cordoned, ttl, lasts (ms that a lease lasts with its
-- grace), highest_epoch, highest_life, new_life (name of the store's life if there is none), succeeds? (process that has certainly
-- ended), store_life? (store's life known before), reported? (the store life to which everything that this host runs was reported).

-- Whether a host has every device that is taken.
local function has_devices_of(capacity, takes)
  for name in pairs(takes) do if device_of(name) and not capacity[name] then return false end end
  return true
end

-- Gives the claims of a process that has ended to the one that has its name now: they are its own, under new epochs.
local function give_back(host, ended, incarnation)
  local returned, capacity = 0, parse_room(ask.capacity)
  for _, member in ipairs(redis.call('ZRANGE', key('on', host), 0, -1)) do
    local agent = redis.call('HMGET', key('agent', member), 'phase', 'epoch', 'incarnation', 'machine_id', 'takes')
    if agent[3] == ended then
      if agent[1] == 'STOPPING' then
        redis.call('ZREM', key('on', host), member)
        remove(member, agent[2], host, agent[4])
      elseif has_devices_of(capacity, parse_room(agent[5])) then
        assign(member, host, incarnation, agent[5])
        returned = returned + 1
      else
        redis.call('ZREM', key('on', host), member)
        wait_for_room(member, 'DeviceLost: its host came back without a device that it had')
      end
    end
  end
  return returned
end

local host, incarnation, ended = ask.host, ask.incarnation, ask.succeeds
notice_another_run()
be_born(ask.new_life)
-- The host has to report what it runs, and nothing was decided without that yet.
local reporting = is_held() and ask.store_life and is_lost(ask.reported or '?')
if reporting and is_lost(ask.store_life) then settle_anew('lost') end
raise_epoch(is_lost(ask.store_life) and with_unheard(ask.highest_epoch) or ask.highest_epoch)
local hkey = key('host', host)
local before = redis.call('HMGET', hkey, 'incarnation', 'lasts', 'reporting', 'cordoned')
if before[1] and before[1] ~= incarnation then
  -- One that was reporting runs what nobody knows of: the store does not settle before it is retired.
  local state = before[1] == ended and 'over' or (before[3] == '1' and 'awaited' or 'silent')
  become_former(host, before[1], state, before[2], lease(host))
end
-- Somebody may have cordoned or uncordoned the host here, after the host saw it last. A store that was lost does not know: what the host
-- says of it counts.
local cordoned = ask.cordoned and '1' or '0'
if before[1] == incarnation and not is_lost(ask.store_life) then cordoned = before[4] end
redis.call('HDEL', key('former'), host .. '|' .. incarnation)
local returned = 0
if ended and ended ~= incarnation and former(host, ended) then
  become_former(host, ended, 'over', '0')
  if not is_held() then
    returned = give_back(host, ended, incarnation)
    redis.call('HDEL', key('former'), host .. '|' .. ended)
  end
end
local life = math.max(tonumber(redis.call('GET', key('lives')) or '0'), tonumber(ask.highest_life)) + 1
redis.call('SET', key('lives'), int(life))
redis.call('HSET', hkey, 'incarnation', incarnation, 'lasts', ask.lasts, 'ttl', ask.ttl,
  'address', ask.address, 'dns_name', ask.dns_name, 'state', ask.state, 'cordoned', cordoned, 'capacity', ask.capacity,
  'used', claimed_by(host, incarnation), 'labels', ask.labels, 'version', ask.version, 'reporting', reporting and '1' or '0',
  'renewed', int(now_ms()))
set_lease(host, int(life), 0)
host_changed(host)
return {store_life(), int(life), int(returned), redis.call('GET', key('stops')) or '0', redis.call('GET', key('epoch'))}
