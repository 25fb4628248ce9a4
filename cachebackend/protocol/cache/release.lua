-- Release a lease without a fill.
-- KEYS[1]  the key
-- ARGV[1]  the lease record
-- returns  1 if the key held it, else 0
if redis.call('GET', KEYS[1]) == ARGV[1] then
    return redis.call('DEL', KEYS[1])
end
return 0
