-- Takes host, incarnation. A former process of which nothing is left is forgotten.
notice_another_run()
if former(ask.host, ask.incarnation) ~= 'over' then return 0 end
for _, member in ipairs(redis.call('ZRANGE', key('on', ask.host), 0, -1)) do
  if redis.call('HGET', key('agent', member), 'incarnation') == ask.incarnation then return 0 end
end
redis.call('HDEL', key('former'), ask.host .. '|' .. ask.incarnation)
return 1
