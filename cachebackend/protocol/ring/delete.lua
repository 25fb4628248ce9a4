-- Delete keys, whatever they hold but a quarantine: that is its writer's alone to end.
-- KEYS     the keys
-- returns  how many of them were deleted
local deleted = 0
for _, key in ipairs(KEYS) do
    if redis.pcall('GETRANGE', key, 0, 0) ~= 'Q' then
        deleted = deleted + redis.call('UNLINK', key)
    end
end
return deleted
