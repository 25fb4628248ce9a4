-- Fold writes into the open batch of a partition. Each row is folded entirely or not at all.
-- KEYS[1]  the partition's meta hash: born (the queue's incarnation), open (number of the open
--          batch), done, sealed (fields in sealed batches), since:N (time of the first write of
--          batch N), seal:N (a random value that identifies the sealed batch N among all batches
--          that ever had this number), enc:N (the encodings of batch N, as in ARGV[5]), bytes (of all
--          fields that were ever queued), base:N (bytes when batch N was begun), error and failed (why and
--          when a drain failed, since the last batch was drained)
-- KEYS[2]  the batch hash of the number in ARGV[1]
-- KEYS[3]  the batch hash of the next number
-- KEYS[4]  the node's sorted set of partitions with queued writes, scored by the oldest one's time
-- KEYS[5]  the number of partitions of this node's queues, negative while it is being changed; the callers
--          give one to a node that has none
-- ARGV[1]  the number of the open batch, as the caller expects it
-- ARGV[2]  now, in milliseconds since 1970
-- ARGV[3]  a random name: it becomes the incarnation of a queue that has none yet, and the seal
--          of a batch that this call seals
-- ARGV[4]  separated by spaces: the fields at which a batch is sealed if no other batch waits for its
--          drain; the most fields in all of the partition's batches; the same two limits in bytes; the
--          number of partitions from which the caller chose this one; the partition's name in KEYS[4]
-- ARGV[5]  the encodings of the changed columns; for each: NUL, column, NUL, code, NUL. A batch has one
--          encoding of a column: before a write with another one the batch is sealed
-- ARGV[6 ...]  for each row: operation, row (key, NUL), number of changes, and for each
--          change: column (key, NUL, column, NUL), kind, value
--          operation u changes a row, c creates it, x deletes it (with all columns that
--          the caller knows as changes)
--          kind p puts a value and replaces what was queued for the column before
--          kind d adds to the value; kinds g and l are its lower and upper bound
-- returns  the error PARTITIONS and their number, or none, if it is not the caller's, and nothing was done;
--          the number of the open batch if all rows were folded; minus that number if it is not
--          ARGV[1], and nothing was done; else a table of the number of the open batch and for
--          each row ok, overflow, full or exists. Only rows with ok were folded. Rows at the end
--          that have no code were not tried, because both batches are sealed.
-- The bounds of a column are never crossed. Then their order matters for NULL only, which becomes the first
-- of them: a lower bound that came after the upper one has the kind h in the batch.
-- A field of a batch is named row, column and kind; the field row, NUL, m marks that the row is
-- created (c), deleted (x), or deleted and created again (r) before its changes.
-- Numbers stay text: Lua's own numbers lose the last digits.
-- The bytes of a field are those of its name and its value. A sum or bound counts with the most digits that it
-- may get, so adding to it changes no count. A batch that was begun by a release without base:N has no limit
-- in bytes.

-- A batch that does not exist gets its encodings when it begins
if not string.find(encodings, ARGV[5], 1, true) and redis.call('EXISTS', batch) == 1 then
    if not add_encodings() then
        seal()
    end
end

local codes = {}
local refused = false
local index = 6
while index <= #ARGV do
    if is_batch_full() then
        if batch == KEYS[3] then
            return finish({tonumber(open), unpack(codes)})
        end
        seal()
    end
    local count = tonumber(ARGV[index + 2])
    local code = operations[ARGV[index]](ARGV[index + 1], index + 3, count)
    codes[#codes + 1] = code
    refused = refused or code ~= 'ok'
    index = index + 3 + 3 * count
end
if not refused then
    return finish(tonumber(open))
end
return finish({tonumber(open), unpack(codes)})
