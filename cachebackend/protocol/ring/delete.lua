-- Delete keys with any record except a quarantine, which only its writer ends. One that never
-- expires has no writer: no process of this project has stored it.
-- KEYS     the keys
-- returns  the number of keys that were deleted
local deleted = 0
for _, key in ipairs(KEYS) do
    if redis.pcall('GETRANGE', key, 0, 0) ~= 'Q' or redis.call('PTTL', key) == -1 then
        deleted = deleted + redis.call('UNLINK', key)
    end
end
return deleted
