-- Takes member, agent (without created and machine_id), launch, if_full ("refuse" or "wait"), waits? (why it waits then), if_namesakes ("report" or "ignore"), store_life?,
-- asked (stops that the store had counted when the caller asked), candidates (hosts, and spread: of the first so many the least loaded is tried first).

-- Organizations that have agents in a guild with the same id.
local function namesakes(member)
  local organization, guild = string.match(member, '^([^:]*):([^:]*)')
  local found = {}
  for _, other in ipairs(redis.call('HKEYS', key('namesakes', guild))) do
    if other ~= organization then found[#found + 1] = other end
  end
  table.sort(found)
  return found
end

notice_another_run()
-- What the store says of an agent may not be so while hosts are reporting, or before the caller has.
if is_lost(ask.store_life) or is_held() or not store_life() then return {'held'} end
local member, agent = ask.member, ask.agent
local akey = key('agent', member)
local old = redis.call('HMGET', akey, 'phase', 'digest', 'request_id', 'machine_id')
local phase = old[1]
if phase == 'STOPPING' then return {'stopping'} end
if phase and phase ~= 'FAILED' then
  if old[2] == agent.digest then return {'exists'} end
  return {'conflict', phase}
end
if phase and old[2] == agent.digest and old[3] == agent.request_id then return {'exists'} end
-- The caller may have got the answer that the agent failed, and have stopped it since. A caller that still waits asks once more.
if was_stopped_since(member, tonumber(ask.asked)) then return {'late', redis.call('GET', key('stops')) or '0'} end

if ask.if_namesakes == 'report' then
  local others = namesakes(member)
  if others[1] then return {'namesakes', unpack(others)} end
end
local demand = parse_room(agent.demand)
local host, incarnation, used, takes = pick(demand, '+inf')
if not host and ask.if_full ~= 'wait' then return {'full'} end

-- A FAILED record keeps its machine id.
agent.machine_id = old[4] or free_machine_id(member)
if not agent.machine_id then return {'crowded'} end
if old[4] then leave_guild(member, old[4]) end
agent.created = int(now_ms())
if phase then clear(akey) end
write_agent(member)
if not host then
  wait_for_room(member, ask.waits or 'NoRoom: no host has room for it; it starts as soon as one has')
  return {'waits'}
end
reserve(host, used, takes)
local epoch = assign(member, host, incarnation, format_room(takes))
redis.call('HSET', akey, 'order', epoch)
return {'claimed', host, incarnation, epoch, agent.machine_id, format_room(takes)}
