-- release.lua: give up a lease without a value, so that the next one may try at once.
--
-- KEYS[1]  lease
-- KEYS[2]  waiter flag
-- ARGV[1]  token of the lease
-- ARGV[2]  channel of wake-ups, or ""
-- ARGV[3]  message for those who wait
--
-- Returns {released, waiters}.
if redis.call('GET', KEYS[1]) ~= ARGV[1] then
  return {0, 0}
end
redis.call('DEL', KEYS[1])
local waiters = redis.call('DEL', KEYS[2])
if waiters == 1 and ARGV[2] ~= '' then
  redis.call('PUBLISH', ARGV[2], ARGV[3])
end
return {1, waiters}
