#!lua flags=allow-oom
-- Store why a drain of a partition failed, for status, until a batch is drained.
-- KEYS[1]  the partition's meta hash
-- ARGV[1]  the error
-- ARGV[2]  now, in milliseconds since 1970
-- returns  1 if the node has a queue of the partition, else 0
if redis.call('HEXISTS', KEYS[1], 'born') == 0 then
    return 0
end
redis.call('HSET', KEYS[1], 'error', ARGV[1], 'failed', ARGV[2])
return 1
