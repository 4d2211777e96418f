-- raise.lua: bring back a version that a failover may have lost.
--
-- KEYS[1]  version of the tag
-- ARGV[1]  time to live, ms
-- ARGV[2]  the version
--
-- Returns the version the tag has then, in decimal.
local version = redis.call('GET', KEYS[1])
if (tonumber(version or '0') or 0) < tonumber(ARGV[2]) then
  version = ARGV[2]
  redis.call('SET', KEYS[1], version, 'PX', ARGV[1])
end
return version
