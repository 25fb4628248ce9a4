-- Give a value a new time to live.
-- KEYS[1]  the key
-- ARGV[1]  time to live in milliseconds; 0: delete; -1: for ever
-- returns  1 if there is a value, else 0 (a lease or quarantine is none, and is left alone)
local kind = string.sub(redis.call('GET', KEYS[1]) or 'L', 1, 1)
if kind == 'L' or kind == 'Q' then
    return 0
end
if ARGV[1] == '-1' then
    redis.call('PERSIST', KEYS[1])
else
    redis.call('PEXPIRE', KEYS[1], ARGV[1])
end
return 1
