-- Compare and set, where the server has no SET ... IFEQ.
-- KEYS[1]  the key
-- ARGV[1]  the record that the key must hold
-- ARGV[2]  the record that replaces it
-- ARGV[3]  time to live in milliseconds; -1: no expiry; -3: unchanged
-- returns  OK; nothing if the key holds another record
if redis.call('GET', KEYS[1]) ~= ARGV[1] then
    return nil
end
return store(KEYS[1], ARGV[2], ARGV[3])
