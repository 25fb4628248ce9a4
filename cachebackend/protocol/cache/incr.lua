-- Add to an integer that is stored bare.
-- KEYS[1]  the key
-- ARGV[1]  now, in seconds since 1970
-- ARGV[2]  what to add
-- returns  the sum; nothing if there is no value; the record of any other value
local value, tags = readable_value(KEYS[1], ARGV[1], '')
if tags or (value and string.byte(value) == 86) then
    return redis.call('GET', KEYS[1])
elseif not value then
    return nil
end
return redis.call('INCRBY', KEYS[1], ARGV[2])
