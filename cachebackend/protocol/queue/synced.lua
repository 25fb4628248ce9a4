#!lua flags=allow-oom
-- Store that the seals of a partition are on disk. A node over its maxmemory does it too.
-- KEYS[1]  the partition's meta hash
-- ARGV[1]  the number of the last batch whose seal is on disk
return redis.call('HSET', KEYS[1], 'synced', ARGV[1])
