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

-- Largest epoch that Lua counts exactly; a larger one is nonsense and must not stop all claims.
local MAX_EPOCH = 9007199254740991

local function raise_epoch(highest)
  local current = tonumber(redis.call('GET', key('epoch')) or '0')
  if tonumber(highest) > current and tonumber(highest) <= MAX_EPOCH then redis.call('SET', key('epoch'), highest) end
end
