-- Alone: none of what other scripts begin with. Tries every command that they use, on a key of its own, and answers which of them the
-- user of Redis may not run.
local scratch = KEYS[1] .. ':rights'
local missing = {}
for _, call in ipairs({
  {'SET', scratch, '1'}, {'GET', scratch}, {'INCR', scratch}, {'EXISTS', scratch}, {'SETBIT', scratch, '0', '0'},
  {'BITPOS', scratch, '1'}, {'DEL', scratch},
  {'HSET', scratch, 'a', '1'}, {'HSETNX', scratch, 'b', '1'}, {'HGET', scratch, 'a'}, {'HMGET', scratch, 'a'},
  {'HEXISTS', scratch, 'a'}, {'HINCRBY', scratch, 'a', '1'}, {'HKEYS', scratch}, {'HVALS', scratch},
  {'HGETALL', scratch}, {'HDEL', scratch, 'a', 'b'},
  {'ZADD', scratch, '1', 'a', '2', 'b'}, {'ZSCORE', scratch, 'a'}, {'ZRANK', scratch, 'a'}, {'ZCARD', scratch},
  {'ZRANGE', scratch, '0', '-1'}, {'ZRANGEBYSCORE', scratch, '0', '1'}, {'ZRANGEBYLEX', scratch, '-', '+'},
  {'ZREM', scratch, 'b'}, {'ZPOPMIN', scratch},
  {'XADD', scratch, '*', 'a', '1'}, {'DEL', scratch}, {'TIME'}, {'INFO', 'server'},
}) do
  local answer = redis.pcall(unpack(call))
  local trouble = type(answer) == 'table' and answer.err
  -- Of the command, or of the key. Whatever else is wrong is told by the first script that meets it.
  if trouble and string.find(trouble, 'The user executing the script', 1, true) then missing[#missing + 1] = call[1] end
end
return missing
