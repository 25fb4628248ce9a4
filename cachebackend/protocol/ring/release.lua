-- Delete a key, if it holds this record: release a lease without a fill.
-- KEYS[1]  the key
-- ARGV[1]  the record
-- returns  1 if the key held it, else 0
if redis.pcall('GET', KEYS[1]) == ARGV[1] then
    return redis.call('DEL', KEYS[1])
end
return 0
