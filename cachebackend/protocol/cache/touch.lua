-- Give a value a new time to live.
-- KEYS[1]  the key
-- ARGV[1]  now, in seconds since 1970
-- ARGV[2]  time to live in milliseconds; 0: delete the key; -1: no expiry
-- ARGV[3]  the new fresh_until of a loaded value; 8 bytes
-- ARGV[4]  the verdict on the value's tags
-- returns  1 if there is a value, else 0; a tag block to check. A lease and a quarantine stay.
local value, tags = readable_value(KEYS[1], ARGV[1], ARGV[4])
if tags then
    return tags
end
if ARGV[2] == '0' then
    local record = redis.pcall('GET', KEYS[1])
    if type(record) ~= 'string' or not string.find(record, '^[LQ]') then
        redis.call('DEL', KEYS[1])
    end
    return value and 1 or 0
end
if not value then
    return 0
end
if string.byte(value) == 86 and #value >= 43 and bit.band(string.byte(value, 3), 1) == 1 then
    redis.call('SET', KEYS[1], string.sub(value, 1, 3) .. ARGV[3] .. string.sub(value, 12), 'KEEPTTL')
end
if ARGV[2] == '-1' then
    redis.call('PERSIST', KEYS[1])
else
    redis.call('PEXPIRE', KEYS[1], ARGV[2])
end
return 1
