-- Give a partition's batches the numbers after those that landed, or drop them.
-- KEYS[1]  the partition's meta hash
-- KEYS[2]  the node's sorted set of partitions with writes
-- KEYS[3 ...]  the batch hashes that stand, in their order, then as many hashes for them to go to
-- ARGV[1]  the number of the last batch that landed
-- ARGV[2]  the partition's name in KEYS[2]
-- ARGV[3]  keep or drop
-- ARGV[4]  the number that must be open, or nothing is done
-- ARGV[5]  the seal of the number that landed
-- ARGV[6]  a seal for those that are sealed
-- returns  the number now open, or 0 if another was
if redis.call('HGET', KEYS[1], 'open') ~= ARGV[4] then
    return 0
end
local landed, count = tonumber(ARGV[1]), (#KEYS - 2) / 2
local open, sealed = landed + 1, 0
for i = 1, count do
    if ARGV[3] == 'drop' then
        redis.call('UNLINK', KEYS[2 + i])
    end
end
-- From the last on, for the numbers only grow
for i = count, 1, -1 do
    if redis.call('EXISTS', KEYS[2 + i]) == 1 then
        redis.call('RENAME', KEYS[2 + i], KEYS[2 + count + i])
        open = math.max(open, landed + i)
    end
end
for _, name in ipairs(redis.call('HKEYS', KEYS[1])) do
    if string.find(name, '^seal:') then
        redis.call('HDEL', KEYS[1], name)
    end
end
for number = landed + 1, open - 1 do
    sealed = sealed + redis.call('HLEN', KEYS[2 + count + number - landed])
    redis.call('HSET', KEYS[1], string.format('seal:%d', number), ARGV[6])
end
redis.call('HSET', KEYS[1], 'open', open, 'done', landed, 'sealed', sealed)
redis.call('HSET', KEYS[1], string.format('seal:%d', landed), ARGV[5])
redis.call('HDEL', KEYS[1], 'synced')
if ARGV[3] == 'drop' then
    redis.call('ZREM', KEYS[2], ARGV[2])
end
return open
