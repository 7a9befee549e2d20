-- Takes host, incarnation.
notice_another_run()
local hkey = key('host', ask.host)
if redis.call('HGET', hkey, 'incarnation') ~= ask.incarnation then return {'void'} end
-- It has ended its agents. What it could not write of them is others' to take.
become_former(ask.host, ask.incarnation, 'over', '0')
end_lease(ask.host)
return {'done'}
