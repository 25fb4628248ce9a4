-- Seal a batch, if it is the open one and holds anything.
-- KEYS[1]  the partition's meta hash
-- KEYS[2]  the batch hash of the number in ARGV[1]
-- ARGV[1]  the number to seal
-- ARGV[2]  a name for the seal, which no other has
-- ARGV[3]  the incarnation of the queue
-- returns  {open, done, synced, seal of the number before, seal of the number} as they stand
--          afterwards; nothing if the queue is another
local meta = KEYS[1]
if redis.call('HGET', meta, 'born') ~= ARGV[3] then
    return {}
end
if redis.call('HGET', meta, 'open') == ARGV[1] then
    local size = redis.call('HLEN', KEYS[2])
    if size > 0 then
        redis.call('HINCRBY', meta, 'open', 1)
        redis.call('HINCRBY', meta, 'sealed', size)
        redis.call('HSET', meta, 'seal:' .. ARGV[1], ARGV[2])
    end
end
local before = string.format('seal:%d', ARGV[1] - 1)
local found = redis.call('HMGET', meta, 'open', 'done', 'synced', before, 'seal:' .. ARGV[1])
return {
    tonumber(found[1] or '1'), tonumber(found[2] or '0'), tonumber(found[3] or '0'), found[4] or '', found[5] or ''
}
