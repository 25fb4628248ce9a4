#!lua flags=allow-oom
-- Set a node's number of partitions, unless another process has changed it. A node over its maxmemory does it too.
-- KEYS[1]  the node's number of partitions
-- ARGV[1]  the expected number; empty: the node has none
-- ARGV[2]  the new number
-- returns  1 if it was set, else 0
if (redis.call('GET', KEYS[1]) or '') ~= ARGV[1] then
    return 0
end
redis.call('SET', KEYS[1], ARGV[2])
return 1
