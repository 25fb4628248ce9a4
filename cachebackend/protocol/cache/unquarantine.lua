-- End a strict write: remove its token; the last token to go deletes the key.
-- KEYS[1]  the key
-- ARGV[1]  the writer's token, 16 bytes
-- returns  1 if the key is gone, 0 if other writers are in flight
-- A key that does not hold a quarantine any more has lost it (evicted, a restart), and a fill since
-- then may be from before the write: the key is deleted.
local record = redis.pcall('GET', KEYS[1])
if type(record) == 'string' and string.sub(record, 1, 1) == 'Q' then
    local others = 'Q'
    for at = 2, #record, 16 do
        if string.sub(record, at, at + 15) ~= ARGV[1] then
            others = others .. string.sub(record, at, at + 15)
        end
    end
    if #others > 1 then
        redis.call('SET', KEYS[1], others, 'KEEPTTL')
        return 0
    end
end
redis.call('DEL', KEYS[1])
return 1
