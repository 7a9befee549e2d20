-- Takes member. Nobody knows an agent that is asked to be stopped: what was asked for before must not bring it.
notice_another_run()
if is_held() then return {'held'} end
if redis.call('EXISTS', key('agent', ask.member)) == 1 then return {'known'} end
bury(ask.member, '0')
return {'done'}
