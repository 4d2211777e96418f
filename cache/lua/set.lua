-- set.lua: store a value and refuse the fills of loads that began before.
--
-- KEYS[1]  value
-- KEYS[2]  lease
-- KEYS[3]  waiter flag
-- ARGV[1]  envelope, without its stamp
-- ARGV[2]  hard time to live, ms
-- ARGV[3]  channel of invalidations, or ""
-- ARGV[4]  message
--
-- Returns {1, stamp}.
local t = redis.call('TIME')
local stamp = t[1] .. string.rep('0', 6 - #t[2]) .. t[2]
redis.call('SET', KEYS[1], stamp .. ARGV[1], 'PX', ARGV[2])
redis.call('DEL', KEYS[2], KEYS[3])
if ARGV[3] ~= '' then
  redis.call('PUBLISH', ARGV[3], ARGV[4])
end
return {1, stamp}
