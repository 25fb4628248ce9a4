-- Delete keys with any record except a quarantine, which only its writer ends. One that never
-- expires has no writer: no process of this project has stored it. Keys of tags and of shards of the
-- registry of shapes end with the byte 255: they are never in quarantine, and a shard is a hash.
-- KEYS     the keys
-- returns  the number of keys that were deleted
local deleted = 0
for first = 1, #KEYS, 1000 do -- Lua's stack has room for 8000
    local last = math.min(first + 999, #KEYS)
    local doomed = {}
    if redis.call('EXISTS', unpack(KEYS, first, last)) > 0 then -- of many changed rows few are cached
        for position = first, last do
            local key = KEYS[position]
            if key:byte(-1) == 255 or redis.pcall('GETRANGE', key, 0, 0) ~= 'Q' or redis.call('PTTL', key) == -1 then
                doomed[#doomed + 1] = key
            end
        end
    end
    if #doomed > 0 then
        deleted = deleted + redis.call('UNLINK', unpack(doomed))
    end
end
return deleted
