-- Store in a hash that a task runs now, by the clock of this node.
-- KEYS[1]  the hash
-- ARGV[1]  the name of the task
-- ARGV[2]  seconds after which the hash expires
-- returns  1
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
redis.call('HSET', KEYS[1], ARGV[1], string.format('%.0f', now))
redis.call('EXPIRE', KEYS[1], ARGV[2])
return 1
