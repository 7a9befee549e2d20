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

-- Epochs are counted from the time at which the store was new, or may have lost what it counted last: ms, so that they never
-- go back as long as fewer than a thousand claims a second are made in the long run.
local function count_epochs_from_now()
  local current = tonumber(redis.call('GET', key('epoch')) or '0')
  redis.call('SET', key('epoch'), int(math.max(current, now_ms())))
end

local function next_epoch()
  if redis.call('EXISTS', key('epoch')) == 0 then count_epochs_from_now() end
  return int(redis.call('INCR', key('epoch')))
end

-- After a loss nobody is placed until every host that may still run agents has told what it runs, or its lease is over.
local function hold(ms)
  local at = int(now_ms() + ms)
  redis.call('SET', key('held_until'), at, 'NX')
  redis.call('SET', key('held_least'), at, 'NX')
end

local function is_held() return tonumber(redis.call('GET', key('held_until')) or '0') > now_ms() end

local function await(host, incarnation) redis.call('SADD', key('awaited'), host .. '|' .. incarnation) end

-- First thing in every script that writes. In another run of Redis the store is in another life: hosts tell again what they
-- run, and nobody is placed until those that are known have done so; nor for a third of that time, in which every host that
-- lives renews, even one whose coming was forgotten.
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
  redis.call('DEL', key('awaited'))
  for _, host in ipairs(redis.call('ZRANGE', key('hosts'), 0, -1)) do
    await(host, redis.call('HGET', key('host', host), 'incarnation'))
  end
  local longest = tonumber(redis.call('GET', key('hold')) or '0')
  -- Whoever is being waited for since an earlier loss still is.
  local least = math.max(now_ms() + math.floor(longest / 3), tonumber(redis.call('GET', key('held_least')) or '0'))
  redis.call('SET', key('held_least'), int(least))
  local known = redis.call('SCARD', key('awaited')) > 0
  redis.call('SET', key('held_until'), int(known and math.max(now_ms() + longest, least) or least))
end

-- A life of a host has told all it runs, or has nothing left to tell.
local function has_told(host, incarnation)
  local awaited = redis.call('SREM', key('awaited'), host .. '|' .. incarnation)
  if awaited == 1 and redis.call('SCARD', key('awaited')) == 0 then
    redis.call('SET', key('held_until'), redis.call('GET', key('held_least')) or '0')
  end
end

-- Whether the process of a claim has certainly ended: the lease of the life that made it is over for `grace` ms. Tells
-- also whether its host is in another life by now. A host that is not known is not certain.
local function has_ended(host, incarnation, grace)
  local h = redis.call('HMGET', key('host', host), 'incarnation', 'former_until')
  if not h[1] then return false, false end
  local another = h[1] ~= incarnation
  local deadline = another and (h[2] or '0') or redis.call('ZSCORE', key('hosts'), host)
  return deadline and tonumber(deadline) + grace <= now_ms(), another
end

-- The first candidate, from ARGV[first] on, that lives, takes agents and has room: host, its life, what is used there.
local function pick(demand, first)
  for i = first, #ARGV do
    local deadline = redis.call('ZSCORE', key('hosts'), ARGV[i])
    if deadline and tonumber(deadline) > now_ms() then
      local h = redis.call('HMGET', key('host', ARGV[i]), 'incarnation', 'state', 'capacity', 'used')
      local used = parse_room(h[4])
      if h[1] and h[2] == 'READY' and fits(parse_room(h[3]), used, demand) then return ARGV[i], h[1], used end
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
  redis.call('ZADD', key('unaccepted'), now, member)
  redis.call('ZREM', key('pending'), member)
  event(member, 'STARTING', epoch, host)
  return epoch
end

local function reserve(host, used, demand)
  for name, milli in pairs(demand) do used[name] = (used[name] or 0) + milli end
  redis.call('HSET', key('host', host), 'used', format_room(used))
end

-- A record that holds no room waits for some, in the order in which agents were created. Its new epoch fences whoever
-- had it before.
local function wait_for_room(member, reason)
  local epoch = next_epoch()
  local akey = key('agent', member)
  redis.call('HSET', akey, 'phase', 'PENDING', 'host', '', 'incarnation', '', 'epoch', epoch, 'pid', '0',
    'reason', reason, 'updated', int(now_ms()))
  redis.call('HDEL', akey, 'accepted', 'sequence')
  redis.call('ZREM', key('unaccepted'), member)
  redis.call('ZADD', key('pending'), redis.call('HGET', akey, 'created'), member)
  event(member, 'PENDING', epoch, '')
  return epoch
end

local function free_machine(guild, machine)
  local mkey = key('machines', guild)
  if redis.call('HINCRBY', mkey, machine, -1) <= 0 then redis.call('HDEL', mkey, machine) end
end

-- What the store has of an agent is older than what it is being told: its room and its number are given back.
local function displace(guild, member, phase, host, incarnation, demand, machine)
  if phase ~= 'PENDING' and phase ~= 'FAILED' then vacate(member, host, incarnation, demand) end
  free_machine(guild, machine)
  redis.call('ZREM', key('pending'), member)
  redis.call('ZREM', key('unaccepted'), member)
end

-- A record that holds no room any more goes.
local function remove(guild, member, epoch, host, machine)
  free_machine(guild, machine)
  redis.call('DEL', key('agent', member))
  for _, index in ipairs({key('agents'), key('guild', guild), key('pending'), key('unaccepted')}) do
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
