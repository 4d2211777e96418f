-- delete.lua: remove a value and refuse the fills of loads that began before.
--
-- KEYS[1]  value
-- KEYS[2]  lease
-- KEYS[3]  waiter flag
-- KEYS[4]  under tracking, a key that changes if there was no value: so those are told who load one, or hold one that
--          Redis has not; else absent
-- ARGV[1]  channel of invalidations, or ""
-- ARGV[2]  message
--
-- Returns {deleted, stamp}; deleted is more than 0 if there was a value, or without KEYS[4] any of the keys.
local t = redis.call('TIME')
local stamp = t[1] .. string.rep('0', 6 - #t[2]) .. t[2]
local deleted
if #KEYS == 4 then
  deleted = redis.call('DEL', KEYS[1])
  redis.call('DEL', KEYS[2], KEYS[3])
  if deleted == 0 then
    redis.call('SET', KEYS[4], '', 'PX', 1000)
    redis.call('DEL', KEYS[4])
  end
else
  deleted = redis.call('DEL', KEYS[1], KEYS[2], KEYS[3])
end
if ARGV[1] ~= '' then
  redis.call('PUBLISH', ARGV[1], ARGV[2])
end
return {deleted, stamp}
