-- Drop a batch that the database holds.
-- KEYS[1]  the partition's meta hash
-- KEYS[2]  the batch hash of the number in ARGV[1]
-- KEYS[3]  the batch hash of the next number
-- KEYS[4]  the node's sorted set of partitions with writes
-- ARGV[1]  the number that landed
-- ARGV[2]  now, in milliseconds since 1970
-- ARGV[3]  the partition's name in KEYS[4]
-- returns  1 if more writes wait, else 0
local size = redis.call('HLEN', KEYS[2])
if size > 0 then
    redis.call('HINCRBY', KEYS[1], 'sealed', -size)
end
-- The hash and done change together: a reader that sees no hash sees done.
redis.call('UNLINK', KEYS[2])
-- The last seal stays: by it the next drain knows the queue again.
redis.call('HDEL', KEYS[1], 'since:' .. ARGV[1], string.format('seal:%d', ARGV[1] - 1))
if tonumber(redis.call('HGET', KEYS[1], 'done') or '0') < tonumber(ARGV[1]) then
    redis.call('HSET', KEYS[1], 'done', ARGV[1])
end
-- Called late, by a worker that another has overtaken, more than the next may wait.
local open = tonumber(redis.call('HGET', KEYS[1], 'open') or '1')
if open > tonumber(ARGV[1]) + 1 or redis.call('EXISTS', KEYS[3]) == 1 then
    local since = redis.call('HGET', KEYS[1], 'since:' .. string.format('%d', ARGV[1] + 1))
    redis.call('ZADD', KEYS[4], since or ARGV[2], ARGV[3])
    return 1
end
redis.call('ZREM', KEYS[4], ARGV[3])
return 0
