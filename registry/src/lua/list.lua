-- KEYS[2]: index. Takes after? (absent: from the start), limit, fields. Answers the store's life, empty while it settles, and the rows.
local after = ask.after and ('(' .. ask.after) or '-'
local members = redis.call('ZRANGEBYLEX', KEYS[2], after, '+', 'LIMIT', 0, ask.limit)
return {is_held() and '' or store_life() or '', rows(members)}
