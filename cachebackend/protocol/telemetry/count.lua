-- Add to the counters in a hash.
-- KEYS[1]  the hash
-- ARGV[1]  seconds after which the hash expires
-- ARGV[2 ...]  pairs of a counter's name and the number that is added to it
-- returns  1
for index = 2, #ARGV, 2 do
    redis.call('HINCRBY', KEYS[1], ARGV[index], ARGV[index + 1])
end
redis.call('EXPIRE', KEYS[1], ARGV[1])
return 1
