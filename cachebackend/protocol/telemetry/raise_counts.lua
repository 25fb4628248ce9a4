-- Raise counters in a hash to what another copy of the hash has; never lower one.
-- KEYS[1]  the hash
-- ARGV[1]  seconds after which the hash expires
-- ARGV[2]  the number of texts
-- ARGV[3 ...]  pairs of a text's name and the text, which is stored if the hash has none; then pairs of
--              a counter's name and the least number that it has afterwards
-- returns  1
local texts = 2 + 2 * tonumber(ARGV[2])
for index = 3, texts, 2 do
    redis.call('HSETNX', KEYS[1], ARGV[index], ARGV[index + 1])
end
for index = texts + 1, #ARGV, 2 do
    local count = redis.call('HGET', KEYS[1], ARGV[index])
    if not tonumber(count or 0) or tonumber(count or 0) < tonumber(ARGV[index + 1]) then
        redis.call('HSET', KEYS[1], ARGV[index], ARGV[index + 1])
    end
end
redis.call('EXPIRE', KEYS[1], ARGV[1])
return 1
