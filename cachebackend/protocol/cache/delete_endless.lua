-- Delete a lease or quarantine that never expires: no process of this project has stored it.
-- KEYS[1]  the key
-- returns  1 if it was deleted, else 0
local kind = redis.pcall('GETRANGE', KEYS[1], 0, 0)
if (kind == 'L' or kind == 'Q') and redis.call('PTTL', KEYS[1]) == -1 then
    return redis.call('DEL', KEYS[1])
end
return 0
