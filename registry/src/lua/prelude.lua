-- Shared by every script; put before each of them. KEYS[1] is the hash tag, from which all keys are built.
local tag = KEYS[1]
local function key(kind, name) return tag .. ':' .. kind .. (name and (':' .. name) or '') end

local function now_ms()
  local t = redis.call('TIME')
  return t[1] * 1000 + math.floor(t[2] / 1000)
end

-- Whole numbers as text: Lua would write large ones in scientific notation.
local function int(n) return string.format('%.0f', n) end

-- Room, `name=thousandths;...`
local function parse_room(text)
  local room = {}
  for name, milli in string.gmatch(text or '', '([^=;]+)=(%d+)') do room[name] = tonumber(milli) end
  return room
end

local function format_room(room)
  local parts = {}
  for name, milli in pairs(room) do if milli > 0 then parts[#parts + 1] = name .. '=' .. int(milli) end end
  return table.concat(parts, ';')
end

local function fits(capacity, used, demand)
  for name, want in pairs(demand) do
    if (used[name] or 0) + want > (capacity[name] or 0) then return false end
  end
  return true
end

-- In `line.lua`: who waits for room, and whom those that wait let pass.
local join_line, leave_line, is_let_pass

local function event(member, phase, epoch, host)
  redis.call('XADD', key('events'), 'MAXLEN', '~', '10000', '*',
    'agent', member, 'phase', phase, 'epoch', epoch, 'host', host)
end

-- Takes an agent off its host: its room is free again. The host must still be in the life that made the claim.
local function vacate(member, host, incarnation, demand)
  if not host or host == '' then return end
  redis.call('ZREM', key('on', host), member)
  local hkey = key('host', host)
  local life = redis.call('HMGET', hkey, 'incarnation', 'used')
  if life[1] ~= incarnation then return end
  local used = parse_room(life[2])
  for name, milli in pairs(parse_room(demand)) do used[name] = math.max(0, (used[name] or 0) - milli) end
  redis.call('HSET', hkey, 'used', format_room(used))
end

-- The store's life is `<random>.<run of Redis>`. The random part goes with everything else. The run changes when Redis was
-- started anew, or another took its place: it may lack its last writes.

-- Whether this is another life of the store than the one that `known` names. Empty knows nothing.
local function is_lost(known) return known ~= '' and redis.call('GET', key('gen')) ~= known end

-- Whether everything was lost since `known`.
local function is_wiped(known)
  local random = string.match(redis.call('GET', key('gen')) or '', '^[^.]*')
  return known ~= '' and random ~= string.match(known, '^[^.]*')
end

-- Epochs begin at the time at which the store was new, or may have lost what it counted last, in µs: a guess that spares whoever
-- knows of former ones the telling. What must hold rests on what hosts and engines tell before anything is claimed.
local function count_epochs_from_now()
  local t = redis.call('TIME')
  local current = tonumber(redis.call('GET', key('epoch')) or '0')
  redis.call('SET', key('epoch'), int(math.max(current, t[1] * 1000000 + t[2])))
end

local function next_epoch()
  if redis.call('EXISTS', key('epoch')) == 0 then count_epochs_from_now() end
  return int(redis.call('INCR', key('epoch')))
end

-- A new life of the store *settles*: nothing is decided before every host that anybody knows of has told what it runs, or is
-- retired, and an engine has watched for as long as any lease lasts. `new`: nobody has come from another life; `lost`: somebody has.
local function is_held() return redis.call('EXISTS', key('settling')) == 1 end

local function settle_anew(why) redis.call('SET', key('settling'), why) end

-- First thing in every script that writes. In another run of Redis the store is in another life: hosts tell again what they run.
local function notice_another_run()
  local run = string.match(redis.call('INFO', 'server'), 'run_id:(%x+)')
  local seen = redis.call('GET', key('run'))
  if seen == run then return end
  redis.call('SET', key('run'), run)
  local gen = redis.call('GET', key('gen'))
  if not (seen and gen) then return end
  redis.call('SET', key('gen'), string.match(gen, '^[^.]*') .. '.' .. string.sub(run, 1, 12))
  -- Claims beyond this one were forgotten.
  redis.call('SET', key('known_epoch'), redis.call('GET', key('epoch')) or '0')
  count_epochs_from_now()
  settle_anew('lost')
  for _, host in ipairs(redis.call('ZRANGE', key('hosts'), 0, -1)) do
    redis.call('HSET', key('host', host), 'telling', '1')
  end
end

-- A life of the store begins with the first who comes.
local function be_born(random)
  if redis.call('SET', key('gen'), random, 'NX') then settle_anew('new') end
end

-- Processes of hosts that hold no lease any more, `host|incarnation` → `state|ms that its last lease lasts|that lease|its renewals`:
--   silent   another process has the name; this one may live until it is retired
--   awaited  it may run what this life of the store was not told: it has not come, or lost its name before it told
--   over     retired, or known to have ended: what it claimed is taken by others
local function former(host, incarnation)
  local text = redis.call('HGET', key('former'), host .. '|' .. incarnation)
  if text then return string.match(text, '^(%a+)|%d+|(.*)$') end
end

local function become_former(host, incarnation, state, lasts, life, renewals)
  -- Nobody has anything to take from one that has nothing.
  if state == 'over' and redis.call('ZCARD', key('on', host)) == 0 then
    redis.call('HDEL', key('former'), host .. '|' .. incarnation)
  else
    local text = table.concat({state, lasts, life or '0', renewals or '0'}, '|')
    redis.call('HSET', key('former'), host .. '|' .. incarnation, text)
  end
end

-- Whether a process of a host may still run what it has claimed.
local function is_live(host, incarnation)
  if redis.call('HGET', key('host', host), 'incarnation') == incarnation then return true end
  local state = former(host, incarnation)
  return state == 'silent' or state == 'awaited'
end

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

-- The first candidate, from ARGV[first] on, that holds a lease, takes agents and has room: host, its process, what is used there.
-- With an `order`, those that wait and came before it must let it pass.
local function pick(demand, first, order)
  for i = first, #ARGV do
    local h = redis.call('HMGET', key('host', ARGV[i]), 'incarnation', 'state', 'capacity', 'used', 'cordoned')
    local capacity, used = parse_room(h[3]), parse_room(h[4])
    if h[1] and h[2] == 'READY' and h[5] ~= '1' and fits(capacity, used, demand)
      and (not order or is_let_pass(ARGV[i], capacity, used, demand, order)) then
      return ARGV[i], h[1], used
    end
  end
end

-- A record that exists becomes a claim of a host under a new epoch, which nobody has accepted yet.
local function seat(member, host, incarnation)
  local epoch, now = next_epoch(), int(now_ms())
  local akey = key('agent', member)
  redis.call('HSET', akey, 'phase', 'STARTING', 'host', host, 'incarnation', incarnation, 'epoch', epoch, 'pid', '0',
    'reason', '', 'updated', now)
  redis.call('HDEL', akey, 'accepted', 'sequence')
  redis.call('ZADD', key('on', host), 0, member)
  redis.call('ZADD', key('unaccepted'), epoch, member)
  leave_line(member)
  event(member, 'STARTING', epoch, host)
  return epoch
end

local function reserve(host, used, demand)
  for name, milli in pairs(demand) do used[name] = (used[name] or 0) + milli end
  redis.call('HSET', key('host', host), 'used', format_room(used))
end

-- A record that holds no room waits for some, in the order in which agents were created: by the first epoch that it is known
-- to have had. Its new epoch fences whoever had it before.
local function wait_for_room(member, reason)
  local epoch = next_epoch()
  local akey = key('agent', member)
  local before = redis.call('HMGET', akey, 'order', 'epoch', 'demand')
  local order = before[1] or before[2] or epoch
  redis.call('HSET', akey, 'order', order, 'phase', 'PENDING', 'host', '', 'incarnation', '', 'epoch', epoch, 'pid', '0',
    'reason', reason, 'updated', int(now_ms()))
  redis.call('HDEL', akey, 'accepted', 'sequence')
  redis.call('ZREM', key('unaccepted'), member)
  join_line(member, before[3], order)
  event(member, 'PENDING', epoch, '')
  return epoch
end

-- What a record of another claim says goes; what a newer version has put there stays.
local function clear(akey)
  redis.call('HDEL', akey, 'phase', 'host', 'incarnation', 'epoch', 'pid', 'reason', 'updated', 'accepted', 'running', 'sequence',
    'exit', 'exit_at', 'last_lines', 'order', 'overtaken_before')
end

local function free_machine(guild, machine)
  local mkey = key('machines', guild)
  if redis.call('HINCRBY', mkey, machine, -1) <= 0 then redis.call('HDEL', mkey, machine) end
end

-- What the store has of an agent is older than what it is being told: its room and its number are given back.
local function displace(guild, member, phase, host, incarnation, demand, machine)
  if phase ~= 'PENDING' and phase ~= 'FAILED' then vacate(member, host, incarnation, demand) end
  free_machine(guild, machine)
  leave_line(member)
  redis.call('ZREM', key('unaccepted'), member)
end

-- A record that holds no room any more goes.
local function remove(guild, member, epoch, host, machine)
  bury(member, epoch)
  free_machine(guild, machine)
  leave_line(member)
  redis.call('DEL', key('agent', member))
  for _, index in ipairs({key('agents'), key('guild', guild), key('unaccepted')}) do
    redis.call('ZREM', index, member)
  end
  event(member, '', epoch, host or '')
end

-- Largest epoch that Lua counts exactly; a larger one is nonsense and must not stop all claims.
local MAX_EPOCH = 9007199254740991

local function raise_epoch(highest)
  if redis.call('EXISTS', key('epoch')) == 0 then count_epochs_from_now() end
  local current = tonumber(redis.call('GET', key('epoch')))
  if tonumber(highest) > current and tonumber(highest) <= MAX_EPOCH then redis.call('SET', key('epoch'), highest) end
end

-- Gives the claims of a process that has ended to the one that has its name now: they are its own, under new epochs.
local function give_back(host, ended, incarnation)
  local returned = 0
  for _, member in ipairs(redis.call('ZRANGE', key('on', host), 0, -1)) do
    local agent = redis.call('HMGET', key('agent', member), 'phase', 'epoch', 'incarnation', 'machine_id', 'demand')
    if agent[3] == ended then
      if agent[1] == 'STOPPING' then
        redis.call('ZREM', key('on', host), member)
        remove(string.match(member, '^[^:]*'), member, agent[2], host, agent[4])
      else
        seat(member, host, incarnation)
        returned = returned + 1
      end
    end
  end
  return returned
end

-- What the claims of a process take.
local function claimed_by(host, incarnation)
  local used = {}
  for _, member in ipairs(redis.call('ZRANGE', key('on', host), 0, -1)) do
    local agent = redis.call('HMGET', key('agent', member), 'incarnation', 'demand')
    if agent[1] == incarnation then
      for name, milli in pairs(parse_room(agent[2])) do used[name] = (used[name] or 0) + milli end
    end
  end
  return format_room(used)
end
