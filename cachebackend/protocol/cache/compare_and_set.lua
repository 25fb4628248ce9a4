-- Compare and set, where the server has no SET ... IFEQ.
-- KEYS[1]  the key
-- ARGV[1]  the record that must still stand
-- ARGV[2]  the record to put in its place
-- ARGV[3]  time to live in milliseconds; -1: for ever; -3: as it was
-- returns  OK, or nothing if the first does not stand
if redis.call('GET', KEYS[1]) ~= ARGV[1] then
    return nil
end
return store(KEYS[1], ARGV[2], ARGV[3])
