-- ARGV: host, incarnation. A former process of which nothing is left is forgotten.
notice_another_run()
if former(ARGV[1], ARGV[2]) ~= 'over' then return 0 end
for _, member in ipairs(redis.call('ZRANGE', key('on', ARGV[1]), 0, -1)) do
  if redis.call('HGET', key('agent', member), 'incarnation') == ARGV[2] then return 0 end
end
redis.call('HDEL', key('former'), ARGV[1] .. '|' .. ARGV[2])
return 1
