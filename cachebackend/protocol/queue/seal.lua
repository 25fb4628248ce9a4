#!lua flags=allow-oom
-- Seal a batch, if it is the open one and not empty. A node over its maxmemory does it too: otherwise the
-- batch could not be drained, and the memory never be freed.
-- KEYS[1]  the partition's meta hash
-- KEYS[2]  the batch hash of the number in ARGV[1]
-- ARGV[1]  the number to seal
-- ARGV[2]  a random value: the seal
-- ARGV[3]  the expected incarnation of the queue
-- returns  {open, done, synced, seal of the number before, seal of the number, encodings of the number}
--          after the call; nothing if the queue has another incarnation
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
local previous = string.format('seal:%d', ARGV[1] - 1)
local state = redis.call(
    'HMGET', meta, 'open', 'done', 'synced', previous, 'seal:' .. ARGV[1], 'enc:' .. ARGV[1]
)
return {
    tonumber(state[1] or '1'), tonumber(state[2] or '0'), tonumber(state[3] or '0'), state[4] or '', state[5] or '',
    state[6] or ''
}
