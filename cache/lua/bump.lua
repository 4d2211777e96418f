-- bump.lua: give a tag its next version, which makes everything stored under the one before invalid.
--
-- KEYS[1]  version of the tag
-- ARGV[1]  time to live, ms
-- ARGV[2]  channel of invalidations, or ""
-- ARGV[3]  message, to which the version is appended
--
-- A version is the server's time in microseconds, or one more than the last: it never repeats, also if the key was evicted.
--
-- Returns the version in decimal.
local t = redis.call('TIME')
local now = tonumber(t[1]) * 1000000 + tonumber(t[2])
local last = tonumber(redis.call('GET', KEYS[1]) or '0') or 0
local version = string.format('%.0f', math.max(now, last + 1))
redis.call('SET', KEYS[1], version, 'PX', ARGV[1])
if ARGV[2] ~= '' then
  redis.call('PUBLISH', ARGV[2], ARGV[3] .. version)
end
return version
