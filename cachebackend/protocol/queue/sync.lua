#!lua flags=allow-oom
-- Write to a partition's meta hash around a sync of the node's file; a node over its maxmemory does it too.
-- KEYS[1]  the partition's meta hash
-- ARGV[1]  the number of the last batch whose seal is on disk; 0: the sync is only about to begin, and
--          the write gives WAITAOF something to wait for
if ARGV[1] == '0' then
    return redis.call('HINCRBY', KEYS[1], 'syncs', 1)
end
return redis.call('HSET', KEYS[1], 'synced', ARGV[1])
