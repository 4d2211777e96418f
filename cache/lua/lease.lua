-- lease.lua: get the right to load a value, or the value if somebody has stored it.
--
-- KEYS[1]  value
-- KEYS[2]  lease
-- KEYS[3]  waiter flag
-- ARGV[1]  token of the caller
-- ARGV[2]  lease time, ms
-- ARGV[3]  the first 16 bytes of the value that the caller knows and wants replaced, or ""
-- ARGV[4]  "1" if the caller will wait for whoever holds the lease
--
-- Returns {0, stamp, value} if there is a value the caller does not know, {1, stamp} if the lease is his, {2} if somebody
-- else loads. A stamp is the server's time in microseconds, 16 digits.
if redis.call('SET', KEYS[2], ARGV[1], 'NX', 'PX', ARGV[2]) then
  local t = redis.call('TIME')
  local stamp = t[1] .. string.rep('0', 6 - #t[2]) .. t[2]
  local value = redis.pcall('GET', KEYS[1]) -- a key of another type is overwritten by the fill
  if type(value) == 'string' and string.sub(value, 1, 16) ~= ARGV[3] then
    redis.call('DEL', KEYS[2])
    return {0, stamp, value}
  end
  return {1, stamp}
end
if ARGV[4] == '1' then
  redis.call('SET', KEYS[3], '1', 'NX', 'PX', ARGV[2])
end
return {2}
