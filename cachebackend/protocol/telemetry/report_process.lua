-- Store the report of a process, and remove those of processes that have not reported for a while.
-- KEYS[1]  a sorted set of presences, 'process alias name', by the time of the last report in milliseconds
-- KEYS[2]  a hash: the last report of each process, and as 'created' when the hash was created
-- ARGV[1]  seconds after which a process that does not report is removed
-- ARGV[2]  the most presences
-- ARGV[3]  the presence of the process: its id, the alias, and the name that it has for this node
-- ARGV[4]  the report
-- returns  1
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local kept = ARGV[1] * 1000
redis.call('ZADD', KEYS[1], string.format('%.0f', now), ARGV[3])
redis.call('HSETNX', KEYS[2], 'created', string.format('%.0f', now))
redis.call('HSET', KEYS[2], string.match(ARGV[3], '^%S+'), ARGV[4])
local removed = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', string.format('(%.0f', now - kept), 'LIMIT', 0, 100)
local surplus = redis.call('ZCARD', KEYS[1]) - ARGV[2]
if surplus > 0 then
    removed = redis.call('ZRANGE', KEYS[1], 0, math.min(surplus, 100) - 1)
end
-- The clock of this node was set back
for _, presence in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], string.format('(%.0f', now), '+inf', 'LIMIT', 0, 100)) do
    table.insert(removed, presence)
end
for _, presence in ipairs(removed) do
    redis.call('ZREM', KEYS[1], presence)
    redis.call('HDEL', KEYS[2], string.match(presence, '^%S+'))
end
redis.call('EXPIRE', KEYS[1], ARGV[1])
redis.call('EXPIRE', KEYS[2], ARGV[1])
return 1
