-- Give a lease back unfilled.
-- KEYS[1]  the key
-- ARGV[1]  the lease record that is given back
-- returns  1 if it stood, else 0
if redis.call('GET', KEYS[1]) == ARGV[1] then
    return redis.call('DEL', KEYS[1])
end
return 0
