-- Add to an integer that is there.
-- KEYS[1]  the key
-- ARGV[1]  what to add
-- returns  the sum; nothing if there is no value (a lease or quarantine is none)
local record = redis.call('GET', KEYS[1])
if not record or string.find(record, '^[LQ]') then
    return nil
end
return redis.call('INCRBY', KEYS[1], ARGV[1])
