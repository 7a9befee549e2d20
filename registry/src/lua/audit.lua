-- Takes host. What is reserved on it becomes the sum of what its agents take; returns both if they differed.
notice_another_run()
local hkey = key('host', ask.host)
local h = redis.call('HMGET', hkey, 'incarnation', 'used')
if not h[1] then return {} end
local claimed = claimed_by(ask.host, h[1])
local reserved, sum, differ = parse_room(h[2]), parse_room(claimed), false
for name, milli in pairs(reserved) do differ = differ or milli ~= (sum[name] or 0) end
for name, milli in pairs(sum) do differ = differ or milli ~= (reserved[name] or 0) end
if not differ then return {} end
redis.call('HSET', hkey, 'used', claimed)
host_changed(ask.host)
return {h[2], claimed}
