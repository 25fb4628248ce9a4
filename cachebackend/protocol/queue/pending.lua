-- Read some fields of all of a partition's batches, at one instant.
-- KEYS[1]  the partition's meta hash
-- KEYS[2 ...]  the batch hashes of the numbers from ARGV[1] on
-- ARGV[1]  the first of these numbers
-- ARGV[2 ...]  the fields
-- returns  {born, open, done, seal of done}; and if the keys include all batches that may exist (done + 1
--          to open), for each of these {number, seal, value of each field, encodings}; a seal is empty if
--          there is none; nothing if the node has no such queue
local meta = redis.call('HMGET', KEYS[1], 'born', 'open', 'done')
if not meta[1] then
    return {}
end
local open, done, first = tonumber(meta[2] or ''), tonumber(meta[3] or '0'), tonumber(ARGV[1])
local reply = {{meta[1], meta[2] or '', meta[3] or '0', ''}}
if not (open and done) or first > done + 1 or first + #KEYS - 2 < open then
    return reply
end
local function seal_of(number)
    return redis.call('HGET', KEYS[1], string.format('seal:%d', number)) or ''
end
reply[1][4] = seal_of(done)
for number = done + 1, open do
    reply[#reply + 1] = {
        number,
        seal_of(number),
        redis.call('HMGET', KEYS[2 + number - first], unpack(ARGV, 2)),
        redis.call('HGET', KEYS[1], string.format('enc:%d', number)) or ''
    }
end
return reply
