-- Fill a lease, where the server has no SET ... IFEQ.
-- KEYS[1]  the key
-- ARGV[1]  the lease record that must still stand
-- ARGV[2]  the record to put in its place
-- ARGV[3]  time to live in milliseconds; -1: for ever
-- returns  OK, or nothing if the lease does not stand
if redis.call('GET', KEYS[1]) ~= ARGV[1] then
    return nil
end
if ARGV[3] == '-1' then
    return redis.call('SET', KEYS[1], ARGV[2])
end
return redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])
