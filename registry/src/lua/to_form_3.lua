-- What an agent takes of its host stands in its record: so far, all that it asked for.
for _, member in ipairs(redis.call('ZRANGE', KEYS[1] .. ':agents', 0, -1)) do
  local agent = redis.call('HMGET', KEYS[1] .. ':agent:' .. member, 'demand', 'host')
  if agent[1] and (agent[2] or '') ~= '' then redis.call('HSET', KEYS[1] .. ':agent:' .. member, 'takes', agent[1]) end
end
