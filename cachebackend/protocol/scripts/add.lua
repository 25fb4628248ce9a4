-- Store a record where none stands that a reader would be given.
-- KEYS[1]  the key
-- ARGV[1]  the record
-- ARGV[2]  time to live in milliseconds; 0: do not store; -1: for ever
-- returns  1 if there was none (a lease counts as none and is revoked), else 0
local kind = string.sub(redis.call('GET', KEYS[1]) or 'L', 1, 1)
if kind ~= 'L' and kind ~= 'Q' then
    return 0
end
if kind == 'Q' or ARGV[2] == '0' then
    return 1
end
if ARGV[2] == '-1' then
    redis.call('SET', KEYS[1], ARGV[1])
else
    redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
end
return 1
