-- Add to the counts of a hash.
-- KEYS[1]  the hash
-- ARGV[1]  for how many seconds it is kept after this
-- ARGV[2]  a name, and ARGV[3] what is added to its count; and so on in pairs
-- returns  1
for at = 2, #ARGV, 2 do
    redis.call('HINCRBY', KEYS[1], ARGV[at], ARGV[at + 1])
end
redis.call('EXPIRE', KEYS[1], ARGV[1])
return 1
