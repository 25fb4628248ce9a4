-- Delete keys with any record except a quarantine, which only its writer ends.
-- KEYS     the keys
-- returns  the number of keys that were deleted
local deleted = 0
for _, key in ipairs(KEYS) do
    if redis.pcall('GETRANGE', key, 0, 0) ~= 'Q' then
        deleted = deleted + redis.call('UNLINK', key)
    end
end
return deleted
