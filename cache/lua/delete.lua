-- delete.lua: remove a value and refuse the fills of loads that began before.
--
-- KEYS[1]  value
-- KEYS[2]  lease
-- KEYS[3]  waiter flag
-- KEYS[4]  a key that changes if there was no value: so tracking tells those who load one, or hold one that Redis has not
-- ARGV[1]  channel of invalidations, or ""
-- ARGV[2]  message
--
-- Returns {existed, stamp}.
local t = redis.call('TIME')
local stamp = t[1] .. string.rep('0', 6 - #t[2]) .. t[2]
local existed = redis.call('DEL', KEYS[1])
redis.call('DEL', KEYS[2], KEYS[3])
if ARGV[1] ~= '' then
  redis.call('PUBLISH', ARGV[1], ARGV[2])
elseif existed == 0 then
  redis.call('SET', KEYS[4], '', 'PX', 1000)
  redis.call('DEL', KEYS[4])
end
return {existed, stamp}
