-- KEYS[2]: index. ARGV: after (empty: from the start), limit, fields... Answers the store's life, empty while it settles, and the rows.
local members = redis.call('ZRANGEBYLEX', KEYS[2], ARGV[1] == '' and '-' or ('(' .. ARGV[1]), '+', 'LIMIT', 0, ARGV[2])
local fields = {}
for i = 3, #ARGV do fields[#fields + 1] = ARGV[i] end
local out = {}
for i, member in ipairs(members) do
  out[i] = {member, redis.call('HMGET', key('agent', member), unpack(fields))}
end
return {is_held() and '' or redis.call('GET', key('gen')) or '', out}
