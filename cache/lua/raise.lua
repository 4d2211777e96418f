-- raise.lua: bring back a version that a failover may have lost.
--
-- KEYS[1]  version of the tag
-- ARGV[1]  time to live, ms
-- ARGV[2]  the version
-- ARGV[3]  channel of invalidations, or ""
-- ARGV[4]  message, to which the version is appended
--
-- Returns the version the tag has then, in decimal.
local version = redis.call('GET', KEYS[1])
if (tonumber(version or '0') or 0) < tonumber(ARGV[2]) then
  version = ARGV[2]
  redis.call('SET', KEYS[1], version, 'PX', ARGV[1])
end
if ARGV[3] ~= '' then
  redis.call('PUBLISH', ARGV[3], ARGV[4] .. version)
end
return version
