-- Add to the counters of forms of queries in a hash, which has a limited number of forms.
-- KEYS[1]  the hash: the description of each form by its id, their number as '#', and counters 'id.name'
-- ARGV[1]  seconds after which the hash expires
-- ARGV[2]  the most forms of the hash
-- ARGV[3 ...]  for each count: the id of the form, the id to count under if the hash is full, the
--          description of the form, the name of the counter, and the number that is added to it
-- returns  1
local limit = tonumber(ARGV[2])
for index = 3, #ARGV, 5 do
    local id, other, description, name, count = unpack(ARGV, index, index + 4)
    if id ~= other and redis.call('HEXISTS', KEYS[1], id) == 0 then
        if tonumber(redis.call('HGET', KEYS[1], '#') or 0) >= limit then
            id = other
        else
            redis.call('HSET', KEYS[1], id, description)
            redis.call('HINCRBY', KEYS[1], '#', 1)
        end
    end
    redis.call('HINCRBY', KEYS[1], id .. '.' .. name, count)
end
redis.call('EXPIRE', KEYS[1], ARGV[1])
return 1
