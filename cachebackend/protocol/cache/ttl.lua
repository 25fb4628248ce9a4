-- Return the remaining time to live of a value.
-- KEYS[1]  the key
-- ARGV[1]  now, in seconds since 1970
-- ARGV[2]  the verdict on the value's tags
-- returns  milliseconds; -1: no expiry; -2: no value; a tag block to check
local value, tags = readable_value(KEYS[1], ARGV[1], ARGV[2])
if tags then
    return tags
elseif not value then
    return -2
end
return redis.call('PTTL', KEYS[1])
