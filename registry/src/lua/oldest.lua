-- KEYS[2]: queue, scored by time. ARGV: least age in ms, how many to skip, limit, fields...
local newest = int(now_ms() - ARGV[1])
local members = redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', newest, 'LIMIT', ARGV[2], ARGV[3])
local fields = {}
for i = 4, #ARGV do fields[#fields + 1] = ARGV[i] end
local out = {}
for i, member in ipairs(members) do
  out[i] = {member, redis.call('HMGET', key('agent', member), unpack(fields))}
end
return out
