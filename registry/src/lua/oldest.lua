-- KEYS[2]: queue, in order. ARGV: how many to skip, limit, fields...
local first = tonumber(ARGV[1])
local members = redis.call('ZRANGE', KEYS[2], first, first + ARGV[2] - 1)
local fields = {}
for i = 3, #ARGV do fields[#fields + 1] = ARGV[i] end
local out = {}
for i, member in ipairs(members) do
  out[i] = {member, redis.call('HMGET', key('agent', member), unpack(fields))}
end
return out
