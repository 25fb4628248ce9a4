-- Compare and set, where the server has no SET ... IFEQ.
-- KEYS[1]  the key
-- ARGV[1]  the record that must still stand
-- ARGV[2]  the record to put in its place
-- ARGV[3]  time to live in milliseconds; -1: for ever; -3: as it was
-- returns  OK, or nothing if the first does not stand
if redis.call('GET', KEYS[1]) ~= ARGV[1] then
    return nil
end
if ARGV[3] == '-1' then
    return redis.call('SET', KEYS[1], ARGV[2])
elseif ARGV[3] == '-3' then
    return redis.call('SET', KEYS[1], ARGV[2], 'KEEPTTL')
end
return redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])
