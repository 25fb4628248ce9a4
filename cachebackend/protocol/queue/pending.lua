-- Read what a partition's batches hold of some fields, all at one instant.
-- KEYS[1]  the partition's meta hash
-- KEYS[2 ...]  the batch hashes of the numbers from ARGV[1] on
-- ARGV[1]  the first of these numbers
-- ARGV[2 ...]  the fields
-- returns  {born, open, done} as they stand, and if the keys are all batches that may stand (those from
--          done + 1 to open), for each of them {number, value of each field}
local meta = redis.call('HMGET', KEYS[1], 'born', 'open', 'done')
if not meta[1] then
    return {}
end
local open, done, first = tonumber(meta[2] or ''), tonumber(meta[3] or '0'), tonumber(ARGV[1])
local answer = {{meta[1], meta[2] or '', meta[3] or '0'}}
if not (open and done) or first > done + 1 or first + #KEYS - 2 < open then
    return answer
end
for number = done + 1, open do
    answer[#answer + 1] = {number, redis.call('HMGET', KEYS[2 + number - first], unpack(ARGV, 2))}
end
return answer
