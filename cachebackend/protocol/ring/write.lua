#!lua flags=allow-oom
-- Prepended to a script that may write nothing: makes a write that changes nothing, so that a wait after it is for
-- all writes before it. A node over its maxmemory does it too. A key without a time to live is deleted in any case.
-- KEYS[1]  a key
local life = redis.call('PTTL', KEYS[1])
if life == -2 then
    redis.call('SET', KEYS[1], '')
    redis.call('UNLINK', KEYS[1])
elseif life >= 0 then
    redis.call('PEXPIRE', KEYS[1], life)
end

