-- Fold writes into the open batch of a partition. Each row is folded entirely or not at all.
-- KEYS[1]  the partition's meta hash: born (the queue's incarnation), open (number of the open
--          batch), done, sealed (fields in sealed batches), since:N (time of the first write of
--          batch N), seal:N (a random value that identifies the sealed batch N among all batches
--          that ever had this number), enc:N (the encodings of batch N, as in ARGV[5]), bytes (of all
--          fields that were ever queued), base:N (bytes when batch N was begun)
-- KEYS[2]  the batch hash of the number in ARGV[1]
-- KEYS[3]  the batch hash of the next number
-- KEYS[4]  the node's sorted set of partitions with queued writes, scored by the oldest one's time
-- KEYS[5]  the number of partitions of this node's queues, negative while it is being changed; a node
--          that has none gets the caller's
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
--          operation u changes a row, c creates it, x deletes it (with all its columns as changes)
--          kind p puts a value and replaces what was queued for the column before
--          kind d adds to the value; kinds g and l are its lower and upper bound
-- returns  the error PARTITIONS and their number if it is not the caller's, and nothing was done;
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

local batch_fields, max_fields, batch_bytes, max_bytes, expected, name =
    string.match(ARGV[4], '^(%d+) (%d+) (%d+) (%d+) (%d+) (.+)$')
local partitions = redis.call('GET', KEYS[5])
if not partitions then
    redis.call('SET', KEYS[5], expected)
elseif partitions ~= expected then
    return redis.error_reply('PARTITIONS ' .. partitions)
end
if not open then
    open = '1'
    redis.call('HSET', KEYS[1], 'open', open, 'born', ARGV[3])
end
if open ~= ARGV[1] then
    return -tonumber(open)
end

local function negated(digits)
    if string.sub(digits, 1, 1) == '-' then
        return string.sub(digits, 2)
    end
    return '-' .. digits
end

local function less(a, b)
    local minus_a, minus_b = string.sub(a, 1, 1) == '-', string.sub(b, 1, 1) == '-'
    if minus_a ~= minus_b then
        return minus_a
    end
    if minus_a then
        a, b = string.sub(b, 2), string.sub(a, 2)
    end
    if #a ~= #b then
        return #a < #b
    end
    return a < b
end

batch_fields, max_fields = tonumber(batch_fields), tonumber(max_fields)
batch_bytes, max_bytes = tonumber(batch_bytes), tonumber(max_bytes)
local NUMBER_BYTES = 20
local counts = redis.call('HMGET', KEYS[1], 'sealed', 'done', 'bytes', 'base:' .. open)
local sealed, done, bytes = tonumber(counts[1] or '0'), tonumber(counts[2] or '0'), tonumber(counts[3] or '0')
-- The bytes when the open batch was begun, and when the oldest batch was
local base = tonumber(counts[4] or math.huge)
local first_base = base
if tonumber(open) > done + 1 then
    first_base = tonumber(redis.call('HGET', KEYS[1], string.format('base:%d', done + 1)) or math.huge)
end

local function finish(reply)
    redis.call('HSET', KEYS[1], 'bytes', string.format('%d', bytes))
    return reply
end

local function seal()
    base = math.huge
    sealed = redis.call('HINCRBY', KEYS[1], 'sealed', redis.call('HLEN', batch))
    redis.call('HSET', KEYS[1], 'seal:' .. open, ARGV[3])
    open = tostring(redis.call('HINCRBY', KEYS[1], 'open', 1))
    batch = KEYS[3]
end

-- The open batch may hold twice as many fields and bytes for each batch that waits for its drain. So without
-- drains the queue grows with the number of rows, and not with the number of writes.
local function is_batch_full()
    local times = 2 ^ (tonumber(open) - 1 - done)
    return redis.call('HLEN', batch) >= batch_fields * times or bytes - base >= batch_bytes * times
end

local function begin()
    if redis.call('EXISTS', batch) == 0 then
        redis.call('HSET', KEYS[1], 'since:' .. open, ARGV[2], 'enc:' .. open, ARGV[5],
            'base:' .. open, string.format('%d', bytes))
        base = bytes
        if tonumber(open) == done + 1 then
            first_base = base
        end
        redis.call('ZADD', KEYS[4], 'NX', ARGV[2], name)
    end
end

local function has_max_bytes()
    return bytes - first_base >= max_bytes
end

local function is_full()
    return has_max_bytes() or sealed + redis.call('HLEN', batch) >= max_fields
end

-- Set a field that has a value or a marker.
local function put(field, value)
    local before = redis.call('HSTRLEN', batch, field)
    redis.call('HSET', batch, field, value)
    bytes = bytes + #value - before + (before == 0 and #field or 0)
end

-- Add the bytes of fields of a column with a number; the count is negative if they were deleted.
local function count_numbers(field, count)
    bytes = bytes + count * (#field + 1 + NUMBER_BYTES)
end

local function delete_numbers(field)
    count_numbers(field, -redis.call('HDEL', batch, field .. 'd', field .. 'g', field .. 'l', field .. 'h'))
end

-- Each operation gets the index in ARGV of the row's first change, and the number of changes.
local operations = {}

local function has_any(first, count, kinds)
    for i = first, first + 3 * (count - 1), 3 do
        for kind in string.gmatch(kinds, '.') do
            if redis.call('HEXISTS', batch, ARGV[i] .. kind) == 1 then
                return true
            end
        end
    end
    return false
end

-- Whether the changes need no new field, and no more bytes if these are full.
local function fits(first, count)
    for i = first, first + 3 * (count - 1), 3 do
        local kind, value = ARGV[i + 1], ARGV[i + 2]
        local before = redis.call('HSTRLEN', batch, ARGV[i] .. kind)
        if before == 0 and kind == 'g' then
            before = redis.call('HSTRLEN', batch, ARGV[i] .. 'h')
        end
        if before == 0 or (kind == 'p' and #value > before and has_max_bytes()) then
            return false
        end
    end
    return true
end

-- Adds to the sum of a field and to its bounds, and appends how to undo each; false: a sum overflowed.
local function add(field, delta, undo)
    local queued = redis.call('HMGET', batch, field .. 'd', field .. 'g', field .. 'l', field .. 'h')
    for i, kind in ipairs({'d', 'g', 'l', 'h'}) do
        if i == 1 or queued[i] then
            local sum = redis.pcall('HINCRBY', batch, field .. kind, delta)
            if type(sum) == 'table' then
                if not string.find(sum.err, 'overflow', 1, true) then
                    error(sum)
                end
                return false
            end
            if not queued[i] then
                count_numbers(field, 1)
            end
            undo[#undo + 1] = {field .. kind, negated(delta)}
        end
    end
    return true
end

-- Sets a bound: the lower one is the greatest of the values, the upper one the least. The other bound
-- moves along if this one would cross it.
local function clamp(field, kind, value)
    local bounds = redis.call('HMGET', batch, field .. 'g', field .. 'l', field .. 'h')
    local upper, lower = bounds[2], bounds[1] or bounds[3]
    local lower_kind = (bounds[3] or (upper and not bounds[1])) and 'h' or 'g'
    local function set(bound_kind)
        count_numbers(field, redis.call('HSET', batch, field .. bound_kind, value))
    end
    if kind == 'g' then
        if not lower or less(lower, value) then
            set(lower_kind)
        end
        if upper and less(upper, value) then
            set('l')
        end
    else
        if not upper or less(value, upper) then
            set('l')
        end
        if lower and less(value, lower) then
            set(lower_kind)
        end
    end
end

function operations.u(row, first, count)
    local marker = redis.call('HGET', batch, row .. '\0m')
    if marker == 'x' then
        return 'ok'
    end
    if is_full() and not fits(first, count) then
        return 'full'
    end
    local last = first + 3 * (count - 1)
    begin()
    -- Deltas first, because a sum may overflow; each column comes once, so the order is free.
    local undo = {}
    for i = first, last, 3 do
        if ARGV[i + 1] == 'd' and not add(ARGV[i], ARGV[i + 2], undo) then
            for _, sum in ipairs(undo) do
                redis.call('HINCRBY', batch, sum[1], sum[2])
            end
            return 'overflow'
        end
    end
    for i = first, last, 3 do
        local field, kind, value = ARGV[i], ARGV[i + 1], ARGV[i + 2]
        if kind == 'p' then
            put(field .. 'p', value)
            delete_numbers(field)
        elseif kind ~= 'd' then
            clamp(field, kind, value)
        end
    end
    return 'ok'
end

-- Whether the batch creates the row with the same values. Sums and bounds that came later do not matter.
local function equals(first, count)
    for i = first, first + 3 * (count - 1), 3 do
        if redis.call('HGET', batch, ARGV[i] .. 'p') ~= ARGV[i + 2] then
            return false
        end
    end
    return true
end

function operations.c(row, first, count)
    local marker = redis.call('HGET', batch, row .. '\0m')
    if marker == 'c' or marker == 'r' then
        -- A caller that got no reply sends the same creation again
        return equals(first, count) and 'ok' or 'exists'
    end
    if is_full() then
        return 'full'
    end
    -- Changes that are queued before the creation have no effect: they must be drained before it.
    if not marker and has_any(first, count, 'pdgl') then
        seal()
    end
    begin()
    put(row .. '\0m', marker == 'x' and 'r' or 'c')
    for i = first, first + 3 * (count - 1), 3 do
        put(ARGV[i] .. 'p', ARGV[i + 2])
    end
    return 'ok'
end

function operations.x(row, first, count)
    if is_full() and redis.call('HEXISTS', batch, row .. '\0m') == 0 then
        return 'full'
    end
    begin()
    for i = first, first + 3 * (count - 1), 3 do
        local before = redis.call('HSTRLEN', batch, ARGV[i] .. 'p')
        if redis.call('HDEL', batch, ARGV[i] .. 'p') == 1 then
            bytes = bytes - before - #ARGV[i] - 1
        end
        delete_numbers(ARGV[i])
    end
    put(row .. '\0m', 'x')
    return 'ok'
end

-- Adds the encodings of this call to those of the batch; false: the batch has another one of a column.
local function add_encodings()
    local code_of = {}
    for column, code in string.gmatch(encodings, '%z([^%z]+)%z([^%z]+)%z') do
        code_of[column] = code
    end
    for column, code in string.gmatch(ARGV[5], '%z([^%z]+)%z([^%z]+)%z') do
        if not code_of[column] then
            encodings = encodings .. '\0' .. column .. '\0' .. code .. '\0'
        elseif code_of[column] ~= code then
            return false
        end
    end
    redis.call('HSET', KEYS[1], 'enc:' .. open, encodings)
    return true
end

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
