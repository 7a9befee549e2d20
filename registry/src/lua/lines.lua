-- Takes skip (lines), lines, limit (agents), fields. The oldest of each line, all in order.
local lines = redis.call('ZRANGE', key('lines'), ask.skip, ask.skip + ask.lines - 1)
local each = math.max(1, math.floor(ask.limit / math.max(1, #lines)))
local waiting = {}
for _, demand in ipairs(lines) do
  local flat = redis.call('ZRANGE', key('line', demand), 0, each - 1, 'WITHSCORES')
  for i = 1, #flat, 2 do waiting[#waiting + 1] = {flat[i], tonumber(flat[i + 1])} end
end
table.sort(waiting, function(a, b) if a[2] ~= b[2] then return a[2] < b[2] end return a[1] < b[1] end)
local members = {}
for i, agent in ipairs(waiting) do members[i] = agent[1] end
return rows(members)
