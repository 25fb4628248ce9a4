-- Seal a batch, if it is the open one and holds anything.
-- KEYS[1]  the partition's meta hash
-- KEYS[2]  the batch hash of the number in ARGV[1]
-- ARGV[1]  the number to seal
-- returns  {open, done, synced} as they stand afterwards
if redis.call('HGET', KEYS[1], 'open') == ARGV[1] then
    local size = redis.call('HLEN', KEYS[2])
    if size > 0 then
        redis.call('HINCRBY', KEYS[1], 'open', 1)
        redis.call('HINCRBY', KEYS[1], 'sealed', size)
    end
end
local meta = redis.call('HMGET', KEYS[1], 'open', 'done', 'synced')
return {tonumber(meta[1] or '1'), tonumber(meta[2] or '0'), tonumber(meta[3] or '0')}
