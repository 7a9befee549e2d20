-- KEYS[2]: queue, in order. Takes skip, limit, fields.
return rows(redis.call('ZRANGE', KEYS[2], ask.skip, ask.skip + ask.limit - 1))
