-- Return a shape's entry in a shard of the registry; store one if there is none, and the shard is not full.
-- KEYS[1]  the shard: a hash from the ids of shapes to their entries
-- ARGV[1]  the id of the shape
-- ARGV[2]  the entry to store: a token, and the description of the shape
-- ARGV[3]  the most shapes that the shard may hold before
-- ARGV[4]  milliseconds after which a new shard expires
-- returns  the entry that the shard holds; nil if it is full
local entry = redis.call('HGET', KEYS[1], ARGV[1])
if entry then
    return entry
end
local count = redis.call('HLEN', KEYS[1])
if count >= tonumber(ARGV[3]) then
    return nil
end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
if count == 0 then
    redis.call('PEXPIRE', KEYS[1], ARGV[4])
end
return ARGV[2]
