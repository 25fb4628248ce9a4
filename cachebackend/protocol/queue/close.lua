#!lua flags=allow-oom
-- Delete drained batches: the database has their writes. A node over its maxmemory does it too.
-- KEYS[1]  the partition's meta hash
-- KEYS[2]  the node's sorted set of partitions with queued writes
-- KEYS[3 ...]  the batch hashes of the numbers from ARGV[1] to ARGV[2], then that of the next number
-- ARGV[1]  the first number
-- ARGV[2]  the last number
-- ARGV[3]  now, in milliseconds since 1970
-- ARGV[4]  the partition's name in KEYS[2]
-- ARGV[5]  the expected incarnation of the queue; if it has another, nothing is done
-- ARGV[6]  the seal of the last batch; if the batch of that number has another, nothing is deleted
-- returns  1 if more writes are queued, else 0
local meta = KEYS[1]
if redis.call('HGET', meta, 'born') ~= ARGV[5] then
    return 0
end
local first, last = tonumber(ARGV[1]), tonumber(ARGV[2])
-- A slow worker may call this after the node came back with an older file, in which other batches get
-- the same numbers. They have other seals.
if redis.call('HGET', meta, 'seal:' .. ARGV[2]) == ARGV[6] then
    for number = first, last do
        local batch = KEYS[3 + number - first]
        redis.call('HINCRBY', meta, 'sealed', -redis.call('HLEN', batch))
        redis.call('UNLINK', batch)
        -- The last seal is kept: the next drain compares it with the seal in the checkpoint.
        redis.call('HDEL', meta, 'error', 'failed', string.format('since:%d', number), string.format('enc:%d', number),
            string.format('base:%d', number), string.format('seal:%d', number - 1))
    end
    -- The hashes and done change in one script: a reader that misses a hash sees the new done.
    if tonumber(redis.call('HGET', meta, 'done') or '0') < last then
        redis.call('HSET', meta, 'done', ARGV[2])
    end
end
-- A slow worker may also call this after another worker has drained later batches. So the question whether
-- writes are queued is about the batches after done, not after the last number.
local done, open = unpack(redis.call('HMGET', meta, 'done', 'open'))
done, open = tonumber(done or '0'), tonumber(open or '1')
local since = redis.call('HGET', meta, string.format('since:%d', done + 1))
if since or open > done + 1 or (done == last and redis.call('EXISTS', KEYS[#KEYS]) == 1) then
    redis.call('ZADD', KEYS[2], since or ARGV[3], ARGV[4])
    return 1
end
redis.call('ZREM', KEYS[2], ARGV[4])
return 0
