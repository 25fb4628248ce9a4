-- Make a value stale: only callers that allow stale values are served it from now on.
-- KEYS[1]  the key
-- ARGV[1]  for how many milliseconds
-- returns  1 if the key holds a stale value, 0 if it was deleted
-- Only a value that a loader made (flag 1) can be claimed for a refresh. Any other record is
-- deleted, a lease included; a quarantine stays. A claim on the value ends: its loader read too
-- early.
if is_quarantined(KEYS[1]) then
    return 0
end
local record = redis.pcall('GET', KEYS[1])
if type(record) ~= 'string' or not string.find(record, '^[VS]') or #record < 43
    or bit.band(string.byte(record, 3), 1) == 0 then
    redis.call('DEL', KEYS[1])
    return 0
end
local life = tonumber(ARGV[1])
if string.byte(record) == 83 then
    life = math.min(life, redis.call('PTTL', KEYS[1]))
end
local unclaimed = string.sub(record, 2, 19) .. string.rep('\0', 24) .. string.sub(record, 44)
redis.call('SET', KEYS[1], 'S' .. unclaimed, 'PX', math.max(life, 1))
return 1
