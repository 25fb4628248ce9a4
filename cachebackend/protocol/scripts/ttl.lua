-- Tell how long a value will live.
-- KEYS[1]  the key
-- returns  milliseconds; -1: for ever; -2: there is no value (a lease or quarantine is none)
local kind = string.sub(redis.call('GET', KEYS[1]) or 'L', 1, 1)
if kind == 'L' or kind == 'Q' then
    return -2
end
return redis.call('PTTL', KEYS[1])
