-- fill.lua: store what was loaded, if nobody invalidated it meanwhile.
--
-- KEYS[1]  value
-- KEYS[2]  lease
-- KEYS[3]  waiter flag
-- ARGV[1]  token of the lease
-- ARGV[2]  envelope, without its stamp
-- ARGV[3]  hard time to live, ms
-- ARGV[4]  channel of wake-ups, or ""
-- ARGV[5]  message for those who wait
--
-- Returns {1, stamp, waiters} if stored, {0, stamp, 0} if the lease is gone or somebody else's: then it was invalidated.
local t = redis.call('TIME')
local stamp = t[1] .. string.rep('0', 6 - #t[2]) .. t[2]
if redis.call('GET', KEYS[2]) ~= ARGV[1] then
  return {0, stamp, 0}
end
redis.call('SET', KEYS[1], stamp .. ARGV[2], 'PX', ARGV[3])
redis.call('DEL', KEYS[2])
local waiters = redis.call('DEL', KEYS[3])
if waiters == 1 and ARGV[4] ~= '' then
  redis.call('PUBLISH', ARGV[4], ARGV[5])
end
return {1, stamp, waiters}
