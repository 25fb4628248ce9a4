-- Renumber a partition's batches so that they follow the last drained one, or delete them.
-- KEYS[1]  the partition's meta hash
-- KEYS[2]  the node's sorted set of partitions with queued writes
-- KEYS[3 ...]  the batch hashes that exist, in order, then as many keys to rename them to
-- ARGV[1]  the number of the last drained batch
-- ARGV[2]  the partition's name in KEYS[2]
-- ARGV[3]  keep: rename the batches; drop: delete them
-- ARGV[4]  the expected number of the open batch; if another is open, nothing is done
-- ARGV[5]  the seal of the last drained batch
-- ARGV[6]  a seal for the renamed batches that are sealed
-- ARGV[7]  the number of the first batch that exists
-- returns  the number of the open batch, or 0 if nothing was done
if redis.call('HGET', KEYS[1], 'open') ~= ARGV[4] then
    return 0
end
local drained, count = tonumber(ARGV[1]), (#KEYS - 2) / 2
local open, sealed = drained + 1, 0
local encodings = {}
for i = 1, count do
    local name = string.format('enc:%d', ARGV[7] + i - 1)
    encodings[i] = redis.call('HGET', KEYS[1], name) or ''
    redis.call('HDEL', KEYS[1], name)
    if ARGV[3] == 'drop' then
        redis.call('UNLINK', KEYS[2 + i])
    end
end
-- The last batch first: the new numbers are higher, so no rename overwrites a batch
for i = count, 1, -1 do
    if redis.call('EXISTS', KEYS[2 + i]) == 1 then
        redis.call('RENAME', KEYS[2 + i], KEYS[2 + count + i])
        redis.call('HSET', KEYS[1], string.format('enc:%d', drained + i), encodings[i])
        open = math.max(open, drained + i)
    end
end
for _, name in ipairs(redis.call('HKEYS', KEYS[1])) do
    if string.find(name, '^seal:') then
        redis.call('HDEL', KEYS[1], name)
    end
end
for number = drained + 1, open - 1 do
    sealed = sealed + redis.call('HLEN', KEYS[2 + count + number - drained])
    redis.call('HSET', KEYS[1], string.format('seal:%d', number), ARGV[6])
end
redis.call('HSET', KEYS[1], 'open', open, 'done', drained, 'sealed', sealed)
redis.call('HSET', KEYS[1], string.format('seal:%d', drained), ARGV[5])
redis.call('HDEL', KEYS[1], 'synced')
if ARGV[3] == 'drop' then
    redis.call('ZREM', KEYS[2], ARGV[2])
end
return open
