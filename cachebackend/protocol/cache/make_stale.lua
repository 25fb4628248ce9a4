-- Make a value stale: wrong from now on, but served for a while by who allows it.
-- KEYS[1]  the key
-- ARGV[1]  for how long, in milliseconds
-- returns  1 if a stale value stands, 0 if the key is gone
-- A loaded value alone can be claimed to be loaded again (flag 1); anything else is deleted,
-- a lease with it, but a quarantine stays. A claim that was made on the value is void: its
-- loader read too early.
local record = redis.pcall('GET', KEYS[1])
if type(record) == 'string' and string.sub(record, 1, 1) == 'Q' then
    return 0
end
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
