-- Prevent fills of a key while a strict write of its row is in flight.
-- KEYS[1]  the key; any record in it is replaced
-- ARGV[1]  the writer's token, 16 bytes
-- ARGV[2]  for how many milliseconds
-- returns  OK
if not is_quarantined(KEYS[1]) then
    return redis.call('SET', KEYS[1], 'Q' .. ARGV[1], 'PX', ARGV[2])
end
local record = redis.call('GET', KEYS[1])
local life = math.max(tonumber(ARGV[2]), redis.call('PTTL', KEYS[1]))
for at = 2, #record, 16 do
    if string.sub(record, at, at + 15) == ARGV[1] then
        return redis.call('SET', KEYS[1], record, 'PX', life)
    end
end
return redis.call('SET', KEYS[1], record .. ARGV[1], 'PX', life)
