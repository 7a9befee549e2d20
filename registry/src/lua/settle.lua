-- Takes store? (its life), watched: whether somebody has watched it for as long as any lease lasts.
notice_another_run()
if is_lost(ask.store_life) then return 0 end
local why = redis.call('GET', key('settling'))
if not why or (why ~= 'new' and not ask.watched) then return 0 end
for _, host in ipairs(hosts_with_lease()) do
  if redis.call('HGET', key('host', host), 'reporting') == '1' then return 0 end
end
for _, text in ipairs(redis.call('HVALS', key('former'))) do
  if string.match(text, '^%a+') == 'awaited' then return 0 end
end
redis.call('DEL', key('settling'))
store_changed()
return 1
