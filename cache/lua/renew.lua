-- renew.lua: keep a lease while its load takes longer.
--
-- KEYS[1]  lease
-- ARGV[1]  token of the lease
-- ARGV[2]  lease time, ms
--
-- Returns 1, or 0 if the lease is gone: whoever invalidated the key took it.
if redis.call('GET', KEYS[1]) == ARGV[1] then
  return redis.call('PEXPIRE', KEYS[1], ARGV[2])
end
return 0
