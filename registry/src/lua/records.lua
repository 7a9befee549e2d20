-- What becomes of records, after `line.lua` in the scripts that make or remove them, or give them room or take it.

-- Agents that were stopped, or asked to be when they were not known, in order; what was asked for earlier must not bring them
-- back. The latest ten thousand: whoever asked before those asks again.
local MOST_STOPPED = 10000

local function bury(member, epoch)
  local number = redis.call('INCR', key('stops'))
  redis.call('ZADD', key('stopped'), number, member)
  -- A stop of an agent that nobody knows has no epoch, and takes nothing back from one that had.
  local before = redis.call('HGET', key('stopped_epochs'), member)
  if not before or tonumber(before) < tonumber(epoch) then redis.call('HSET', key('stopped_epochs'), member, epoch) end
  if redis.call('ZCARD', key('stopped')) > MOST_STOPPED then
    local oldest = redis.call('ZPOPMIN', key('stopped'))
    redis.call('HDEL', key('stopped_epochs'), oldest[1])
    redis.call('SET', key('stops_forgotten'), oldest[2])
  end
end

-- Whether an agent was stopped after the store had counted `asked` stops, as far as is known.
local function was_stopped_since(member, asked)
  if asked < tonumber(redis.call('GET', key('stops_forgotten')) or '0') then return true end
  return tonumber(redis.call('ZSCORE', key('stopped'), member) or '0') > asked
end

-- Whether an agent was stopped under this epoch, or a later one.
local function was_stopped(member, epoch)
  local stopped = redis.call('HGET', key('stopped_epochs'), member)
  return stopped and tonumber(stopped) >= tonumber(epoch)
end

-- Largest share of any resource of a host in use with the demand, in millionths; of devices that of all together. `core/src/placement.rs` says the same, to the bit.
local function load(capacity, used, demand)
  local most = 0
  for name, all in pairs(capacity) do
    if not is_of_device(name) then
      local wanted = (used[name] or 0) + (demand[name] or 0)
      most = math.max(most, math.floor(wanted / math.max(all, 1) * 1000000))
    end
  end
  return most
end

-- A host that may be picked: its name, its process, whether it takes agents, what it has and what is used there.
local function candidate(host, demand)
  local h = redis.call('HMGET', key('host', host), 'incarnation', 'state', 'capacity', 'used', 'cordoned')
  return {host = host, incarnation = h[1], open = h[1] and h[2] == 'READY' and h[5] ~= '1',
    capacity = parse_room(h[3]), used = parse_room(h[4])}
end

-- The candidates in the order in which they are tried: of the first `spread` the least loaded one first, those that are gone before all.
local function candidates(demand)
  local all = {}
  for at, host in ipairs(ask.candidates.hosts) do
    local c = {host = host, at = at}
    if at <= ask.candidates.spread then
      c = candidate(host, demand)
      c.at, c.load = at, c.incarnation and load(c.capacity, c.used, demand) or -1
    end
    all[at] = c
  end
  table.sort(all, function(a, b)
    if a.load and b.load and a.load ~= b.load then return a.load < b.load end
    return a.at < b.at
  end)
  return all
end

-- The first candidate that holds a lease, takes agents and has room: host, its process, what is used there, and what it takes. With
-- an `order`, those that wait and came before it must let it pass.
local function pick(demand, order)
  local zones = apart_zones(demand)
  for _, c in ipairs(candidates(demand)) do
    if not c.load then c = candidate(c.host, demand) end
    local takes = c.open and not is_shared(zones, c.host, c.capacity) and place(c.capacity, c.used, demand)
    if takes and (not order or is_let_pass(c.host, c.capacity, c.used, demand, order)) then
      return c.host, c.incarnation, c.used, takes
    end
  end
end

-- A record that exists becomes a claim of a host under a new epoch, which nobody has accepted yet.
local function assign(member, host, incarnation, takes)
  local epoch, now = next_epoch(), int(now_ms())
  local akey = key('agent', member)
  redis.call('HSET', akey, 'phase', 'STARTING', 'host', host, 'incarnation', incarnation, 'epoch', epoch, 'pid', '0',
    'condition', '', 'updated', now, 'takes', takes)
  redis.call('HDEL', akey, 'accepted', 'sequence')
  redis.call('ZADD', key('on', host), 0, member)
  redis.call('ZADD', key('unaccepted'), epoch, member)
  leave_line(member)
  event(member, 'STARTING', epoch, host)
  return epoch
end

-- What the claims of a process take.
local function claimed_by(host, incarnation)
  local used = {}
  for _, member in ipairs(redis.call('ZRANGE', key('on', host), 0, -1)) do
    local agent = redis.call('HMGET', key('agent', member), 'incarnation', 'takes')
    if agent[1] == incarnation then add_room(used, parse_room(agent[2])) end
  end
  return format_room(used)
end

local function reserve(host, used, takes)
  add_room(used, takes)
  redis.call('HSET', key('host', host), 'used', format_room(used))
end

-- A record that holds no room waits for some, in the order in which agents were created: by the first epoch that it is known
-- to have had. Its new epoch fences whoever had it before.
local function wait_for_room(member, condition)
  local epoch = next_epoch()
  local akey = key('agent', member)
  local before = redis.call('HMGET', akey, 'order', 'epoch', 'demand')
  local order = before[1] or before[2] or epoch
  redis.call('HSET', akey, 'order', order, 'phase', 'PENDING', 'host', '', 'incarnation', '', 'epoch', epoch, 'pid', '0',
    'condition', condition, 'updated', int(now_ms()))
  redis.call('HDEL', akey, 'accepted', 'sequence', 'takes')
  redis.call('ZREM', key('unaccepted'), member)
  join_line(member, before[3], order)
  event(member, 'PENDING', epoch, '', string.match(condition, '^[^:]*'))
  return epoch
end

-- What a record of another claim says goes; what a newer version has put there stays.
local function clear(akey)
  redis.call('HDEL', akey, 'phase', 'host', 'incarnation', 'epoch', 'pid', 'condition', 'updated', 'accepted', 'running', 'sequence', 'takes',
    'exit', 'exit_at', 'last_lines', 'order', 'overtaken_before')
end

-- Largest machine id.
local MAX_MACHINE = 16065

-- Smallest free machine id of the agent's guild, if there is one: a bit stands for each.
local function free_machine_id(member)
  local bit = redis.call('BITPOS', key('machines', guild_of(member)), 0)
  if bit < MAX_MACHINE then return int(bit + 1) end
end

-- Counts what is under a name in a hash, up or down.
local function count(hash, name, by)
  if redis.call('HINCRBY', hash, name, by) <= 0 then redis.call('HDEL', hash, name) end
end

-- Counts an agent as one of its guild, with its machine id. Others may have the same id: not everything that is restored to a lost store
-- is of one time.
local function join_guild(member, machine)
  local guild, organization, id = guild_of(member), string.match(member, '^([^:]*):([^:]*)')
  count(key('namesakes', id), organization, 1)
  if redis.call('SETBIT', key('machines', guild), machine - 1, 1) == 1 then count(key('shared_machines', guild), machine, 1) end
end

local function leave_guild(member, machine)
  local guild, organization, id = guild_of(member), string.match(member, '^([^:]*):([^:]*)')
  count(key('namesakes', id), organization, -1)
  if redis.call('HEXISTS', key('shared_machines', guild), machine) == 1 then
    count(key('shared_machines', guild), machine, -1)
  else
    redis.call('SETBIT', key('machines', guild), machine - 1, 0)
    if redis.call('BITPOS', key('machines', guild), 1) == -1 then redis.call('DEL', key('machines', guild)) end
  end
end

-- Makes `ask.agent` and `ask.launch` a record, with no restarts so far, lists it, and counts its machine id as taken. It keeps what
-- neither has.
local function write_agent(member)
  local agent, akey = ask.agent, key('agent', member)
  redis.call('HSET', akey, 'name', agent.name, 'request_id', agent.request_id, 'digest', agent.digest, 'demand', agent.demand,
    'on_disconnect', agent.on_disconnect, 'spec', agent.spec, 'launch', ask.launch, 'machine_id', agent.machine_id,
    'created', agent.created, 'restarts', '0')
  if agent.first_start then redis.call('HSET', akey, 'first_start', agent.first_start) end
  join_guild(member, agent.machine_id)
  redis.call('ZADD', key('agents'), 0, member)
end

-- Gives back the room and the machine id of a record that is older than the one that takes its place.
local function displace(member, phase, host, incarnation, takes, machine)
  if phase ~= 'PENDING' and phase ~= 'FAILED' then free_room(member, host, incarnation, takes) end
  leave_guild(member, machine)
  leave_line(member)
  redis.call('ZREM', key('unaccepted'), member)
end

-- A record that holds no room any more goes.
local function remove(member, epoch, host, machine)
  bury(member, epoch)
  leave_guild(member, machine)
  leave_line(member)
  redis.call('DEL', key('agent', member))
  redis.call('ZREM', key('agents'), member)
  redis.call('ZREM', key('unaccepted'), member)
  event(member, '', epoch, host or '')
end
