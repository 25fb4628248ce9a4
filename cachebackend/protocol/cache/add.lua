-- Store a record where there is no value.
-- KEYS[1]  the key
-- ARGV[1]  now, in seconds since 1970
-- ARGV[2]  the record
-- ARGV[3]  time to live in milliseconds; 0: do not store; -1: no expiry
-- ARGV[4]  the verdict on the value's tags
-- returns  1 if there was no value, else 0; a tag block to check. A lease is revoked; a quarantine
--          stays.
local value, tags = readable_value(KEYS[1], ARGV[1], ARGV[4])
if tags then
    return tags
elseif value then
    return 0
end
if is_quarantined(KEYS[1]) then
    return 1
elseif ARGV[3] == '0' then
    redis.call('DEL', KEYS[1])
else
    store(KEYS[1], ARGV[2], ARGV[3])
end
return 1
