-- Prepended to fold.lua, whose keys and arguments it reads: adds to a sum that is queued already, and returns.

local meta = redis.call('HMGET', KEYS[1], 'open', 'enc:' .. ARGV[1])
local open, encodings = meta[1], meta[2] or ''
local batch = KEYS[2]

-- Fast path for the most frequent write: adding to a sum that is queued already. It needs no new field
-- and starts no batch. The column must have no bound queued, and the row no marker.
-- The number of partitions need not be compared, because the partition is right if it holds the sum:
--   1. a caller chooses a partition by the number 4, and is delayed before it sends its write
--   2. the number becomes negative: from now on no batch begins, but queued sums take additions
--   3. all batches are sealed and drained; only when none is left, the number becomes 16
--   4. other callers choose partitions by the number 16, and queue sums
--   5. the write of the first caller arrives: here is a sum of its row only if the number 16 gives the same
--      partition; if not, the write is refused below
if open == ARGV[1] and #ARGV == 11 and ARGV[6] == 'u' and ARGV[10] == 'd'
    and string.find(encodings, ARGV[5], 1, true) then
    local field = ARGV[9]
    local queued = redis.call('HMGET', batch, field .. 'd', field .. 'g', field .. 'l', ARGV[7] .. '\0m')
    if queued[1] and not (queued[2] or queued[3] or queued[4]) then
        if type(redis.pcall('HINCRBY', batch, field .. 'd', ARGV[11])) == 'number' then
            return tonumber(open)
        end
    end
end

