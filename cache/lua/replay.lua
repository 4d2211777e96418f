-- replay.lua: delete again what a failover may have brought back.
--
-- KEYS[1]  value
-- KEYS[2]  lease
-- KEYS[3]  waiter flag
-- ARGV[1]  stamp of the deletion: what was written until then is deleted, what came later stays
-- ARGV[2]  channel of invalidations, or ""
-- ARGV[3]  message
--
-- Returns {deleted, stamp}.
local t = redis.call('TIME')
local stamp = t[1] .. string.rep('0', 6 - #t[2]) .. t[2]
local deleted = 0
if redis.call('EXISTS', KEYS[1]) == 1 and redis.call('GETRANGE', KEYS[1], 0, 15) <= ARGV[1] then
  deleted = redis.call('DEL', KEYS[1])
  redis.call('DEL', KEYS[2], KEYS[3])
end
if ARGV[2] ~= '' then -- also if a new value is there already: others may hold the old one
  redis.call('PUBLISH', ARGV[2], ARGV[3])
end
return {deleted, stamp}
