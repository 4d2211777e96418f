-- lease.lua: read a value, or get the right to load it.
--
-- KEYS[1]  value
-- KEYS[2]  lease
-- KEYS[3]  waiter flag
-- ARGV[1]  token of the caller
-- ARGV[2]  lease time, ms
-- ARGV[3]  the first 16 bytes of the value that the caller knows and wants replaced, or ""
-- ARGV[4]  "1" if the caller will wait for whoever holds the lease
--
-- Returns {0, stamp, value} if there is a value the caller does not know, {1, stamp} if the lease is his, {2, stamp, ms} if
-- somebody else loads for at most that long. A stamp is the server's time in microseconds, 16 digits.
local t = redis.call('TIME')
local stamp = t[1] .. string.rep('0', 6 - #t[2]) .. t[2]
local value = redis.pcall('GET', KEYS[1]) -- a key of another type is overwritten by the fill
if type(value) == 'string' and string.sub(value, 1, 16) ~= ARGV[3] then
  return {0, stamp, value}
end
if redis.call('SET', KEYS[2], ARGV[1], 'NX', 'PX', ARGV[2]) then
  return {1, stamp}
end
if ARGV[4] == '1' then
  redis.call('SET', KEYS[3], '1', 'NX', 'PX', ARGV[2])
end
return {2, stamp, redis.call('PTTL', KEYS[2])}
