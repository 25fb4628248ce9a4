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
-- returns  0 if they were folded; else the number that is open, and nothing was done;
--          the error OVERFLOW if a sum is beyond 64 bits, and nothing was done
-- As text: a number of Lua's loses the last digits.
local function negated(digits)
    if string.sub(digits, 1, 1) == '-' then
        return string.sub(digits, 2)
    end
    return '-' .. digits
end

local open = redis.call('HGET', KEYS[1], 'open')
if not open then
    open = '1'
    redis.call('HSET', KEYS[1], 'open', open)
end
if open ~= ARGV[1] then
    return tonumber(open)
end
redis.call('ZADD', KEYS[3], 'NX', ARGV[2], ARGV[3])
-- Deltas first, for a sum may be refused; each column comes once, so their order is free.
for i = 4, #ARGV, 3 do
    if ARGV[i + 1] == 'd' then
        local sum = redis.pcall('HINCRBY', KEYS[2], ARGV[i] .. 'd', ARGV[i + 2])
        if type(sum) == 'table' then
            for j = 4, i - 3, 3 do
                if ARGV[j + 1] == 'd' then
                    redis.call('HINCRBY', KEYS[2], ARGV[j] .. 'd', negated(ARGV[j + 2]))
                end
            end
            return redis.error_reply('OVERFLOW the sum of what is queued is beyond 64 bits')
        end
    end
end
for i = 4, #ARGV, 3 do
    if ARGV[i + 1] == 'p' then
        redis.call('HSET', KEYS[2], ARGV[i] .. 'p', ARGV[i + 2])
        redis.call('HDEL', KEYS[2], ARGV[i] .. 'd')
    end
end
return 0
