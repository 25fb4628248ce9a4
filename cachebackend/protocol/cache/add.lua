-- Store a record where there is no value.
-- KEYS[1]  the key
-- ARGV[1]  now, in seconds since 1970
-- ARGV[2]  the record
-- ARGV[3]  time to live in milliseconds; 0: do not store; -1: no expiry
-- returns  1 if there was no value, else 0. A lease is revoked; a quarantine stays.
if readable_value(KEYS[1], ARGV[1]) then
    return 0
end
local record = redis.pcall('GET', KEYS[1])
if ARGV[3] == '0' or (type(record) == 'string' and string.sub(record, 1, 1) == 'Q') then
    return 1
end
store(KEYS[1], ARGV[2], ARGV[3])
return 1
