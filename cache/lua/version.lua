-- version.lua: read the version of a tag, and keep the tag as long as what is stored under it.
--
-- KEYS[1]  version of the tag
-- ARGV[1]  time to live, ms: the key gets it if it has less than half of it left
--
-- A tag without a version (new, evicted, expired) gets the server's time in microseconds: nothing stored before is valid.
--
-- Returns the version in decimal.
local version = redis.call('GET', KEYS[1])
if not version then
  local t = redis.call('TIME')
  version = string.format('%.0f', tonumber(t[1]) * 1000000 + tonumber(t[2]))
  redis.call('SET', KEYS[1], version, 'PX', ARGV[1])
elseif redis.call('PTTL', KEYS[1]) < tonumber(ARGV[1]) / 2 then
  redis.call('PEXPIRE', KEYS[1], ARGV[1])
end
return version
