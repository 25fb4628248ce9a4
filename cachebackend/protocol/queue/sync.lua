#!lua flags=allow-oom
-- Write to a partition's meta hash, so that a wait after it is for all writes before it. A node over its maxmemory
-- does it too.
-- KEYS[1]  the partition's meta hash
-- returns  how often this was done
return redis.call('HINCRBY', KEYS[1], 'syncs', 1)
