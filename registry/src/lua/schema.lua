-- Before everything else in every script, after STEPS, the upgrade steps by the form that each leads to. ARGV[2] is the form of the
-- data that the caller's version writes: an argument, so that a script has the same hash in all versions that agree on its text.
-- Nothing is read or written in a form that is not known; a look at the number is all that it costs.
local SCHEMA = ARGV[2]
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
    for _, kind in ipairs({'leases', 'gen', 'epoch', 'hosts', 'agents'}) do
      if redis.call('EXISTS', KEYS[1] .. ':' .. kind) == 1 then return redis.error_reply('SCHEMA unnumbered') end
    end
  end
  redis.call('SET', form_key, SCHEMA)
end
