-- Add to an integer, if the key holds a value.
-- KEYS[1]  the key
-- ARGV[1]  now, in seconds since 1970
-- ARGV[2]  what to add
-- returns  the sum; nothing if there is no value
if not readable_value(KEYS[1], ARGV[1]) then
    return nil
end
return redis.call('INCRBY', KEYS[1], ARGV[2])
