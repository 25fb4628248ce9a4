-- Give a value a new time to live.
-- KEYS[1]  the key
-- ARGV[1]  now, in seconds since 1970
-- ARGV[2]  time to live in milliseconds; 0: delete the key; -1: no expiry
-- ARGV[3]  the new fresh_until of a loaded value; 8 bytes
-- returns  1 if there is a value, else 0
local record = readable_value(KEYS[1], ARGV[1])
if ARGV[2] == '0' then
    redis.call('DEL', KEYS[1])
    return record and 1 or 0
end
if not record then
    return 0
end
if string.byte(record) == 86 and #record >= 43 and bit.band(string.byte(record, 3), 1) == 1 then
    redis.call('SET', KEYS[1], string.sub(record, 1, 3) .. ARGV[3] .. string.sub(record, 12), 'KEEPTTL')
end
if ARGV[2] == '-1' then
    redis.call('PERSIST', KEYS[1])
else
    redis.call('PEXPIRE', KEYS[1], ARGV[2])
end
return 1
