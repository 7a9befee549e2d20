-- KEYS[2]: index. Takes prefix (which members begin with; ends with a colon, or is empty), after? (absent: from the start), limit,
-- fields. Answers the store's life, empty while it settles, and the rows.
local first, last = '-', '+'
if ask.prefix ~= '' then
  -- A semicolon comes after a colon, and nothing between.
  first, last = '[' .. ask.prefix, '(' .. string.sub(ask.prefix, 1, -2) .. ';'
end
if ask.after and ask.after > ask.prefix then first = '(' .. ask.after end
local members = redis.call('ZRANGEBYLEX', KEYS[2], first, last, 'LIMIT', 0, ask.limit)
return {is_held() and '' or store_life() or '', rows(members)}
