-- Return the remaining time to live of a value.
-- KEYS[1]  the key
-- ARGV[1]  now, in seconds since 1970
-- returns  milliseconds; -1: no expiry; -2: no value
if not readable_value(KEYS[1], ARGV[1]) then
    return -2
end
return redis.call('PTTL', KEYS[1])
