-- Fold writes into the open batch of a partition.
-- KEYS[1]  the partition's meta hash: open (number of the open batch), done
-- KEYS[2]  the batch hash of the number in ARGV[1]
-- KEYS[3]  the node's sorted set of partitions with writes, by the time of the oldest
-- ARGV[1]  the number that the caller takes for the open one
-- ARGV[2]  now, in milliseconds since 1970
-- ARGV[3]  the partition's name in KEYS[3]
-- ARGV[4 ...]  for each write: row (key, NUL, column, NUL), kind, value
--              kind p puts a value: the last one wins, deltas before it are void
--              kind d adds to a delta
-- returns  0 if they were folded; else the number that is open, and nothing was done
local open = redis.call('HGET', KEYS[1], 'open')
if not open then
    open = '1'
    redis.call('HSET', KEYS[1], 'open', open)
end
if open ~= ARGV[1] then
    return tonumber(open)
end
for i = 4, #ARGV, 3 do
    local row, kind, value = ARGV[i], ARGV[i + 1], ARGV[i + 2]
    if kind == 'd' then
        redis.call('HINCRBY', KEYS[2], row .. 'd', value)
    else
        redis.call('HSET', KEYS[2], row .. 'p', value)
        redis.call('HDEL', KEYS[2], row .. 'd')
    end
end
redis.call('ZADD', KEYS[3], 'NX', ARGV[2], ARGV[3])
return 0
