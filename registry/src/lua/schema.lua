-- Before everything else in every script, after SCHEMA, the form of the data that this version writes, and STEPS, by the form that
-- each leads to. Nothing is read or written in a form that is not known; a look at the number is all that it costs.
local form_key = KEYS[1] .. ':schema'
local form = redis.call('GET', form_key)
if form ~= SCHEMA then
  if form then
    local number = tonumber(form)
    if not number or number > tonumber(SCHEMA) then return redis.error_reply('SCHEMA newer ' .. form) end
    for step = number + 1, tonumber(SCHEMA) do
      if not STEPS[step] then return redis.error_reply('SCHEMA older ' .. form) end
    end
    for step = number + 1, tonumber(SCHEMA) do STEPS[step]() end
  else
    -- An empty store, or one from before forms had numbers.
    for _, kind in ipairs({'gen', 'epoch', 'hosts', 'agents'}) do
      if redis.call('EXISTS', KEYS[1] .. ':' .. kind) == 1 then return redis.error_reply('SCHEMA unnumbered') end
    end
  end
  redis.call('SET', form_key, SCHEMA)
end
