-- Those that wait for room, after the prelude in the scripts that change records; `core/src/rules/line.rs` says the same.
--
-- Agents with the same demand stand in one line, in the order in which they were created, by numbers of the store's and no
-- clock. `lines` has each line's demand, by its first. A claim may overtake a line, which `overtaken` counts, but not if
-- somebody in it could use the very room; and from MOST_OVERTAKEN on, one host is `kept` for the line's first.

-- Claims that may overtake one that waits.
local MOST_OVERTAKEN = 32
-- Lines that a claim looks at, by the age of their first: a claim takes as long as that, however many agents wait.
local LINES_LOOKED_AT = 32

local function line_of(demand) return key('line', demand) end

-- The line is known by its first, and forgotten with its last.
local function order_line(demand)
  local first = redis.call('ZRANGE', line_of(demand), 0, 0, 'WITHSCORES')
  if first[1] then return redis.call('ZADD', key('lines'), first[2], demand) end
  redis.call('ZREM', key('lines'), demand)
  redis.call('HDEL', key('overtaken'), demand)
end

local function join_line(member, demand, order)
  redis.call('ZADD', key('pending'), order, member)
  redis.call('ZADD', line_of(demand), order, member)
  -- What overtook the line before does not count for it.
  redis.call('HSET', key('agent', member), 'overtaken_before', redis.call('HGET', key('overtaken'), demand) or '0')
  order_line(demand)
end

local function leave_line(member)
  if redis.call('ZREM', key('pending'), member) == 0 then return end
  local demand = redis.call('HGET', key('agent', member), 'demand') or ''
  if redis.call('ZRANK', line_of(demand), member) == 0 then redis.call('HDEL', key('kept'), demand) end
  redis.call('ZREM', line_of(demand), member)
  order_line(demand)
end

-- The lines whose first comes before `order`.
local function lines_before(order)
  local lines = {}
  local before = order == '+inf' and order or ('(' .. order)
  for i, text in ipairs(redis.call('ZRANGEBYSCORE', key('lines'), '-inf', before, 'LIMIT', 0, LINES_LOOKED_AT)) do
    local first = redis.call('ZRANGE', line_of(text), 0, 0)[1]
    local before_it = redis.call('HGET', key('agent', first), 'overtaken_before') or '0'
    local overtaken = (redis.call('HGET', key('overtaken'), text) or '0') - before_it
    lines[i] = {text = text, demand = parse_room(text), count = redis.call('ZCARD', line_of(text)),
      due = overtaken >= MOST_OVERTAKEN, kept = redis.call('HGET', key('kept'), text)}
  end
  return lines
end

local function asks_for_devices(demand) return demand[GPUS] or demand[GPU_MEMORY] end

local function of_devices(demand) return {[GPUS] = demand[GPUS], [GPU_MEMORY] = demand[GPU_MEMORY]} end

-- How many of a line find room beside `used`.
local function how_many(capacity, used, line)
  if asks_for_devices(line.demand) then
    local with, count = {}, 0
    add_room(with, used)
    while count < line.count do
      local takes = place(capacity, with, line.demand)
      if not takes then break end
      add_room(with, takes)
      count = count + 1
    end
    return count
  end
  local count = line.count
  for name, want in pairs(line.demand) do
    count = math.min(count, math.floor((has(capacity, name) - (used[name] or 0)) / want))
  end
  return math.max(count, 0)
end

-- Whether `demand` takes something of which one of the line is short then.
local function is_in_the_way(capacity, used, demand, line)
  if asks_for_devices(demand) and asks_for_devices(line.demand) then
    local with = place(capacity, used, of_devices(demand))
    if not with then return true end
    add_room(with, used)
    if not place(capacity, with, of_devices(line.demand)) then return true end
  end
  for name, want in pairs(line.demand) do
    if demand[name] and name ~= GPUS and name ~= GPU_MEMORY and (used[name] or 0) + demand[name] + want > has(capacity, name) then return true end
  end
  return false
end

local function take(capacity, used, line, count)
  if asks_for_devices(line.demand) then
    for _ = 1, count do add_room(used, place(capacity, used, line.demand) or {}) end
  else
    for name, want in pairs(line.demand) do used[name] = (used[name] or 0) + want * count end
  end
end

-- Whether a host could hold one of a line, if it held only those from whom it stays apart.
local function could_hold(host, capacity, line)
  line.zones = line.zones or apart_zones(line.demand)
  return place(capacity, {}, line.demand) ~= nil and not is_shared(line.zones, host, capacity)
end

-- Whether a host is kept for a line that it could hold still.
local function is_kept(line)
  if not line.kept then return false end
  local h = redis.call('HMGET', key('host', line.kept), 'state', 'capacity', 'cordoned')
  return h[1] == 'READY' and h[3] ~= '1' and could_hold(line.kept, parse_room(h[2]), line)
end

local lines
-- Whether those that came before `order` let `demand` have room on a host. Counts whom it overtakes. Asked of one host after the
-- other: who has found room on one needs none on the next.
local function is_let_pass(host, capacity, used, demand, order)
  lines = lines or lines_before(order)
  local overtakes, taken = {}, {}
  for name, milli in pairs(used) do taken[name] = milli end
  for _, line in ipairs(lines) do
    if could_hold(host, capacity, line) then
      local now, count = how_many(capacity, taken, line), line.count
      line.count = count - now
      if now > 0 then
        -- Whoever comes last of those that find room here has it as well.
        take(capacity, taken, line, now - 1)
        if is_in_the_way(capacity, taken, demand, line) then return false end
        take(capacity, taken, line, 1)
      end
      if now < count and is_in_the_way(capacity, taken, demand, line) then
        if line.due and not is_kept(line) then
          line.kept = host
          redis.call('HSET', key('kept'), line.text, host)
        end
        if line.due and line.kept == host then return false end
        overtakes[#overtakes + 1] = line.text
      end
    end
  end
  for _, text in ipairs(overtakes) do redis.call('HINCRBY', key('overtaken'), text, 1) end
  return true
end
