-- Shared by every script; put before each of them, after `schema.lua`. KEYS[1] is the hash tag, from which all keys are built.
local tag = KEYS[1]
-- What is asked of the script: a map, written by `redis/ask.rs`, which says what is text in it and what is not. Each script names the
-- fields that it reads; a field with a `?` may be absent, and is nil then. Fields that a script does not read it ignores.
local ask = cmsgpack.unpack(ARGV[1])
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

local function add_room(room, more)
  for name, milli in pairs(more) do room[name] = (room[name] or 0) + milli end
end

-- Devices: `core/src/devices.rs` says what an agent takes of them, and how a room has them.
local GPUS, GPU_MEMORY, DEVICE, DEVICE_MEMORY, WHOLE = 'gpus', 'gpu_memory', 'gpu:', 'gpu_memory:', 1000

-- The device that a resource stands for.
local function device_of(name) if string.sub(name, 1, #DEVICE) == DEVICE then return string.sub(name, #DEVICE + 1) end end

local function is_of_device(name) return device_of(name) or string.sub(name, 1, #DEVICE_MEMORY) == DEVICE_MEMORY end

-- The share of a device that this memory of it is, if it has that.
local function share_of(memory, all)
  if memory == 0 then return 0 end
  if memory <= all then return math.max(math.floor(memory / all * WHOLE), 1) end
end

-- The memory that belongs to a share of a device, in whole bytes.
local function memory_of(share, all)
  local memory = all / 1000 * share
  return memory - memory % 1000
end

-- Adds to `takes` what a demand takes of devices beside `used`, unless too few have enough left.
local function choose_devices(capacity, used, demand, takes)
  local gpus, wanted = demand[GPUS] or 0, demand[GPU_MEMORY] or 0
  if gpus + wanted == 0 then return true end
  local of_each, found = math.min(gpus, WHOLE), {}
  for name, all in pairs(capacity) do
    local id = device_of(name)
    local all_memory = id and capacity[DEVICE_MEMORY .. id] or 0
    local by_memory = id and share_of(wanted, all_memory)
    if by_memory then
      local share, memory = math.max(of_each, by_memory), math.max(wanted, memory_of(of_each, all_memory))
      local free = math.max(all - (used[name] or 0), 0)
      if share <= free and (used[DEVICE_MEMORY .. id] or 0) + memory <= all_memory then
        found[#found + 1] = {id = id, share = share, memory = memory, free = free}
      end
    end
  end
  local count = math.max(math.ceil(gpus / WHOLE), 1)
  if #found < count then return false end
  table.sort(found, function(a, b)
    if a.free ~= b.free then return a.free < b.free end
    return a.id < b.id
  end)
  for i = 1, count do
    local part = found[i]
    add_room(takes, {[DEVICE .. part.id] = part.share, [DEVICE_MEMORY .. part.id] = part.memory, [GPUS] = part.share})
  end
  return true
end

-- What a host has of a resource; `core/src/resources.rs` says what every host has.
local function has(capacity, name)
  if name == 'may:move' then return 1000000000 end
  if string.sub(name, 1, 6) == 'apart:' then return 1000 end
  if string.sub(name, 1, 13) == 'rather-apart:' then return 1000000000 end
  return capacity[name] or 0
end

-- The resource that stands for the value that a host has of a label.
local function label_resource(capacity, label)
  local prefix = 'label:' .. label .. '%3D'
  for name in pairs(capacity) do if string.sub(name, 1, #prefix) == prefix then return name end end
  return ''
end

-- What an agent of this demand takes beside `used`, with devices in the place of what it asks of them; nil: it does not fit.
local function place(capacity, used, demand)
  local takes = {}
  for name, want in pairs(demand) do
    if name ~= GPUS and name ~= GPU_MEMORY then
      if (used[name] or 0) + want > has(capacity, name) then return nil end
      takes[name] = want
    end
  end
  if choose_devices(capacity, used, demand, takes) then return takes end
end

local function guild_of(member) return string.match(member, '^[^:]*:[^:]*') end

-- Adds to the stream what has changed: an agent, a host, or the store itself.
local function emit(...) redis.call('XADD', key('events'), 'MAXLEN', '~', '10000', '*', ...) end

local function event(member, phase, epoch, host, reason)
  emit('agent', member, 'phase', phase, 'epoch', epoch, 'host', host, 'reason', reason or '')
end

local function host_changed(host) emit('host', host) end

local function store_changed() emit('store', 'changed') end

-- The leases, in one hash, so that one command reads them all: host → `life renewals`, and under a name that no host has the store's life.
local STORE = ':store'

local function store_life() return redis.call('HGET', key('leases'), STORE) end

local function set_lease(host, life, renewals) redis.call('HSET', key('leases'), host, life .. ' ' .. int(renewals)) end

local function lease(host)
  local text = redis.call('HGET', key('leases'), host)
  if text then return string.match(text, '^(%d+) (%d+)$') end
end

local function hosts_with_lease()
  local hosts = {}
  for _, name in ipairs(redis.call('HKEYS', key('leases'))) do if name ~= STORE then hosts[#hosts + 1] = name end end
  return hosts
end

-- Where those are from whom an agent of this demand stays apart, by what it takes for it: the label, and values of it.
local function apart_zones(demand)
  local zones
  for name in pairs(demand) do
    local label = string.match(name, '^apart:([^:]*):')
    if label then
      zones = zones or {}
      zones[name] = {label = label, values = {}}
    end
  end
  if not zones then return {} end
  for _, host in ipairs(hosts_with_lease()) do
    local h = redis.call('HMGET', key('host', host), 'capacity', 'used')
    local capacity, used = parse_room(h[1]), parse_room(h[2])
    for name, zone in pairs(zones) do
      local value = zone.label == '' and host or label_resource(capacity, zone.label)
      if (used[name] or 0) > 0 then zone.values[value] = true end
    end
  end
  return zones
end

-- Whether one from whom an agent stays apart is where a host is.
local function is_shared(zones, host, capacity)
  for _, zone in pairs(zones) do
    if zone.values[zone.label == '' and host or label_resource(capacity, zone.label)] then return true end
  end
  return false
end

-- A host holds no lease any more.
local function end_lease(host)
  redis.call('HDEL', key('leases'), host)
  redis.call('DEL', key('host', host))
  host_changed(host)
end

-- Takes an agent off its host: its room is free again. The host must still be in the life that made the claim.
local function free_room(member, host, incarnation, takes)
  if not host or host == '' then return end
  redis.call('ZREM', key('on', host), member)
  local hkey = key('host', host)
  local life = redis.call('HMGET', hkey, 'incarnation', 'used')
  if life[1] ~= incarnation then return end
  local used = parse_room(life[2])
  for name, milli in pairs(parse_room(takes)) do used[name] = math.max(0, (used[name] or 0) - milli) end
  redis.call('HSET', hkey, 'used', format_room(used))
end

-- The store's life is `<random>.<run of Redis>`. The random part goes with everything else. The run changes when Redis was
-- started anew, or another took its place: it may lack its last writes.

-- Whether this is another life of the store than the one that `known` names. Who names none has lost nothing.
local function is_lost(known) return known ~= nil and store_life() ~= known end

-- Whether everything was lost since `known`.
local function is_wiped(known)
  local random = string.match(store_life() or '', '^[^.]*')
  return known ~= nil and random ~= string.match(known, '^[^.]*')
end

-- Epochs begin at the time at which the store was new, or may have lost what it counted last, in µs: a guess, so that whoever knows of
-- former ones need not report them. What must hold rests on what hosts report and engines bring before anything is claimed.
local function count_epochs_from_now()
  local t = redis.call('TIME')
  local current = tonumber(redis.call('GET', key('epoch')) or '0')
  redis.call('SET', key('epoch'), int(math.max(current, t[1] * 1000000 + t[2])))
end

local function next_epoch()
  if redis.call('EXISTS', key('epoch')) == 0 then count_epochs_from_now() end
  return int(redis.call('INCR', key('epoch')))
end

-- Largest epoch that Lua counts exactly; a larger one is nonsense and must not stop all claims.
local MAX_EPOCH = 9007199254740991

-- The highest epoch that may have been given, when `highest` is the highest that was heard of: a store that is lost has made fewer
-- claims since it answered a host last.
local UNHEARD = 1000000

local function with_unheard(highest) return int(tonumber(highest) + UNHEARD) end

local function raise_epoch(highest)
  if redis.call('EXISTS', key('epoch')) == 0 then count_epochs_from_now() end
  local current = tonumber(redis.call('GET', key('epoch')))
  if tonumber(highest) > current and tonumber(highest) <= MAX_EPOCH then redis.call('SET', key('epoch'), highest) end
end

-- A new store life *settles*: nothing is decided before every host that anybody knows of has reported what it runs, or is
-- retired, and an engine has watched for as long as any lease lasts. `new`: nobody has come from another life; `lost`: somebody has.
local function is_held() return redis.call('EXISTS', key('settling')) == 1 end

local function settle_anew(why) redis.call('SET', key('settling'), why) end

-- First thing in every script that writes. In another run of Redis the store is in another life: hosts report again what they run.
local function notice_another_run()
  local info = redis.pcall('INFO', 'server')
  -- Its user may not ask: services have warned of it.
  if type(info) ~= 'string' then return end
  -- A pattern that is looked for takes ten times as long as plain text, and every write waits for it.
  local _, before = string.find(info, 'run_id:', 1, true)
  local run = string.match(info, '^%x+', before + 1)
  local seen = redis.call('GET', key('run'))
  if seen == run then return end
  redis.call('SET', key('run'), run)
  local life = store_life()
  if not (seen and life) then return end
  redis.call('HSET', key('leases'), STORE, string.match(life, '^[^.]*') .. '.' .. string.sub(run, 1, 12))
  -- Claims beyond this one were forgotten.
  redis.call('SET', key('known_epoch'), redis.call('GET', key('epoch')) or '0')
  count_epochs_from_now()
  settle_anew('lost')
  for _, host in ipairs(hosts_with_lease()) do redis.call('HSET', key('host', host), 'reporting', '1') end
  store_changed()
end

-- A life of the store begins with the first who comes.
local function be_born(random)
  if redis.call('HSETNX', key('leases'), STORE, random) == 0 then return end
  settle_anew('new')
  store_changed()
end

-- Processes of hosts that hold no lease any more, `host|incarnation` → `state|ms that its last lease lasts|that lease|its renewals`:
--   silent   another process has the name; this one may live until it is retired
--   awaited  it may run what this store life does not know: it has not come, or lost its name before it had reported
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

-- Writes how an agent fares, by the fields of `ask` that have the record's names.
local function write_state(akey, now)
  redis.call('HSET', akey, 'phase', ask.phase, 'pid', ask.pid or '0', 'restarts', ask.restarts, 'condition', ask.condition,
    'last_lines', ask.last_lines, 'sequence', ask.sequence or '0', 'updated', now)
  if ask.exit then redis.call('HSET', akey, 'exit', ask.exit, 'exit_at', ask.exit_at or now) end
end

-- The answer of a script that reads agents: of each its member and `ask.fields`.
local function rows(members)
  local out = {}
  for i, member in ipairs(members) do
    out[i] = {member, redis.call('HMGET', key('agent', member), unpack(ask.fields))}
  end
  return out
end
