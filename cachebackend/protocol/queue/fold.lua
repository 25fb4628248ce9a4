-- Fold writes into the open batch of a partition, each row's wholly or not at all.
-- KEYS[1]  the partition's meta hash: born (the queue's incarnation), open (number of the
--          open batch), done, sealed (fields in sealed batches), since:N (first write of N),
--          seal:N (what tells the sealed batch N from any other that had this number)
-- KEYS[2]  the batch hash of the number in ARGV[1]
-- KEYS[3]  the batch hash of the next number
-- KEYS[4]  the node's sorted set of partitions with writes, by the time of the oldest
-- ARGV[1]  the number that the caller takes for the open one
-- ARGV[2]  now, in milliseconds since 1970
-- ARGV[3]  the partition's name in KEYS[4]
-- ARGV[4]  a name that nothing else has: the incarnation of a queue that has none, and the
--          seal of a batch that is sealed
-- ARGV[5]  the most fields in a batch; it is sealed then
-- ARGV[6]  the most fields in all of the partition's batches
-- ARGV[7 ...]  for each row: operation, row (key, NUL), number of changes, and for each
--          change: column (key, NUL, column, NUL), kind, value
--          operation u changes a row, c creates it, x deletes it (all its columns named)
--          kind p puts a value: what stood before is void
--          kind d adds to the value, kinds g and l are the least and the most it may be
-- returns  the number now open if all rows were folded; minus the number that is open if
--          ARGV[1] is another, and nothing was done; else a table of the number now open
--          and for each row ok, overflow, full or exists. Only rows that are ok were folded.
--          Rows at the end that are left out were not come to, for both batches are sealed.
-- A batch's fields are named column and kind; row, NUL, m says that the row is created (c),
-- deleted (x) or deleted and created anew (r) before its changes.
-- Numbers stay text: Lua's own lose the last digits.

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

local open = redis.call('HGET', KEYS[1], 'open')
if not open then
    open = '1'
    redis.call('HSET', KEYS[1], 'open', open, 'born', ARGV[4])
end
if open ~= ARGV[1] then
    return -tonumber(open)
end
local batch = KEYS[2]

-- One more onto a sum that stands, the most frequent write of all, takes no room and begins nothing.
-- What is said of it below holds here: nothing else stands of the column, and the row is marked as nothing.
if #ARGV == 12 and ARGV[7] == 'u' and ARGV[11] == 'd' then
    local field = ARGV[10]
    local stands = redis.call('HMGET', batch, field .. 'd', field .. 'g', field .. 'l', ARGV[8] .. '\0m')
    if stands[1] and not (stands[2] or stands[3] or stands[4]) then
        if type(redis.pcall('HINCRBY', batch, field .. 'd', ARGV[12])) == 'number' then
            return tonumber(open)
        end
    end
end

local sealed = tonumber(redis.call('HGET', KEYS[1], 'sealed') or '0')
local most_in_batch, most = tonumber(ARGV[5]), tonumber(ARGV[6])

local function seal()
    sealed = redis.call('HINCRBY', KEYS[1], 'sealed', redis.call('HLEN', batch))
    redis.call('HSET', KEYS[1], 'seal:' .. open, ARGV[4])
    open = tostring(redis.call('HINCRBY', KEYS[1], 'open', 1))
    batch = KEYS[3]
end

local function begin()
    if redis.call('EXISTS', batch) == 0 then
        redis.call('HSET', KEYS[1], 'since:' .. open, ARGV[2])
        redis.call('ZADD', KEYS[4], 'NX', ARGV[2], ARGV[3])
    end
end

local function is_full()
    return sealed + redis.call('HLEN', batch) >= most
end

-- Each takes the place of the row's first change in ARGV and how many there are.
local operations = {}

local function standing(at, count, kinds)
    for i = at, at + 3 * (count - 1), 3 do
        for kind in string.gmatch(kinds, '.') do
            if redis.call('HEXISTS', batch, ARGV[i] .. kind) == 1 then
                return true
            end
        end
    end
    return false
end

-- Whether the changes take no more room: each is of a field that stands, or is void.
local function fits(at, count)
    for i = at, at + 3 * (count - 1), 3 do
        if redis.call('HEXISTS', batch, ARGV[i] .. ARGV[i + 1]) == 0 then
            return false
        end
    end
    return true
end

local function add(field, delta, made)
    local stands = redis.call('HMGET', batch, field .. 'g', field .. 'l')
    for i, kind in ipairs({'d', 'g', 'l'}) do
        if i == 1 or stands[i - 1] then
            local sum = redis.pcall('HINCRBY', batch, field .. kind, delta)
            if type(sum) == 'table' then
                if not string.find(sum.err, 'overflow', 1, true) then
                    error(sum)
                end
                return false
            end
            made[#made + 1] = {field .. kind, negated(delta)}
        end
    end
    return true
end

local function clamp(field, kind, value)
    local stands = redis.call('HGET', batch, field .. kind)
    if not stands or (kind == 'g') == less(stands, value) then
        redis.call('HSET', batch, field .. kind, value)
    end
end

function operations.u(row, at, count)
    local marker = redis.call('HGET', batch, row .. '\0m')
    if marker == 'x' then
        return 'ok'
    end
    if is_full() and not fits(at, count) then
        return 'full'
    end
    local last = at + 3 * (count - 1)
    -- A least after a most, or the other way round, is no clamp: NULL tells them apart.
    for i = at, last, 3 do
        local other = ({g = 'l', l = 'g'})[ARGV[i + 1]]
        if other and redis.call('HEXISTS', batch, ARGV[i] .. other) == 1 then
            seal()
            break
        end
    end
    begin()
    -- Deltas first, for a sum may be refused; each column comes once, so their order is free.
    local made = {}
    for i = at, last, 3 do
        if ARGV[i + 1] == 'd' and not add(ARGV[i], ARGV[i + 2], made) then
            for _, sum in ipairs(made) do
                redis.call('HINCRBY', batch, sum[1], sum[2])
            end
            return 'overflow'
        end
    end
    for i = at, last, 3 do
        local field, kind, value = ARGV[i], ARGV[i + 1], ARGV[i + 2]
        if kind == 'p' then
            redis.call('HSET', batch, field .. 'p', value)
            redis.call('HDEL', batch, field .. 'd', field .. 'g', field .. 'l')
        elseif kind ~= 'd' then
            clamp(field, kind, value)
        end
    end
    return 'ok'
end

function operations.c(row, at, count)
    local marker = redis.call('HGET', batch, row .. '\0m')
    if marker == 'c' or marker == 'r' then
        return 'exists'
    end
    if is_full() then
        return 'full'
    end
    -- What changes a row that is not there yet is void: it must land before.
    if not marker and standing(at, count, 'pdgl') then
        seal()
    end
    begin()
    redis.call('HSET', batch, row .. '\0m', marker == 'x' and 'r' or 'c')
    for i = at, at + 3 * (count - 1), 3 do
        redis.call('HSET', batch, ARGV[i] .. 'p', ARGV[i + 2])
    end
    return 'ok'
end

function operations.x(row, at, count)
    if is_full() and redis.call('HEXISTS', batch, row .. '\0m') == 0 then
        return 'full'
    end
    begin()
    for i = at, at + 3 * (count - 1), 3 do
        redis.call('HDEL', batch, ARGV[i] .. 'p', ARGV[i] .. 'd', ARGV[i] .. 'g', ARGV[i] .. 'l')
    end
    redis.call('HSET', batch, row .. '\0m', 'x')
    return 'ok'
end

local codes = {}
local refused = false
local at = 7
while at <= #ARGV do
    if redis.call('HLEN', batch) >= most_in_batch then
        if batch == KEYS[3] then
            return {tonumber(open), unpack(codes)}
        end
        seal()
    end
    local count = tonumber(ARGV[at + 2])
    local code = operations[ARGV[at]](ARGV[at + 1], at + 3, count)
    codes[#codes + 1] = code
    refused = refused or code ~= 'ok'
    at = at + 3 + 3 * count
end
if not refused then
    return tonumber(open)
end
return {tonumber(open), unpack(codes)}
