-- expire.lua: make a value stale at once, but keep it for stale-if-error; refuse the fills of loads that began before.
--
-- KEYS[1]  value
-- KEYS[2]  lease
-- KEYS[3]  waiter flag
-- KEYS[4]  under tracking, a key that changes if there was no value: so those are told who load one, or hold one that
--          Redis has not; else absent
-- ARGV[1]  offset of the state in the value
-- ARGV[2]  state of an expired value
-- ARGV[3]  channel of invalidations, or ""
-- ARGV[4]  message
--
-- Returns {existed, stamp}.
local t = redis.call('TIME')
local stamp = t[1] .. string.rep('0', 6 - #t[2]) .. t[2]
local existed = 0
if redis.call('STRLEN', KEYS[1]) > tonumber(ARGV[1]) then
  existed = 1
  redis.call('SETRANGE', KEYS[1], ARGV[1], ARGV[2])
end
redis.call('DEL', KEYS[2], KEYS[3])
if ARGV[3] ~= '' then
  redis.call('PUBLISH', ARGV[3], ARGV[4])
end
if existed == 0 and #KEYS == 4 then
  redis.call('SET', KEYS[4], '', 'PX', 1000)
  redis.call('DEL', KEYS[4])
end
return {existed, stamp}
