-- Prepended to fold.lua: what each operation on a row does to the open batch (open_batch.lua).

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

-- Each operation gets the index in ARGV of the row's first change, and the number of changes.
local operations = {}

-- The columns that the batch may hold of a row: those of this call, and those that only processes of another
-- version of the code know. A batch of a release without encodings has only the former.
local function columns_of(row, first, count)
    local columns, is_known = {}, {}
    local function know(column)
        if not is_known[column] then
            is_known[column] = true
            columns[#columns + 1] = column
        end
    end
    for i = first, first + 3 * (count - 1), 3 do
        know(ARGV[i])
    end
    for column in string.gmatch(encodings, '%z([^%z]+)%z[^%z]+%z') do
        know(row .. column .. '\0')
    end
    return columns
end

local function has_any(columns, kinds)
    for _, column in ipairs(columns) do
        for kind in string.gmatch(kinds, '.') do
            if redis.call('HEXISTS', batch, column .. kind) == 1 then
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
    if not marker and has_any(columns_of(row, first, count), 'pdgl') then
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
    for _, column in ipairs(columns_of(row, first, count)) do
        local before = redis.call('HSTRLEN', batch, column .. 'p')
        if redis.call('HDEL', batch, column .. 'p') == 1 then
            bytes = bytes - before - #column - 1
        end
        delete_numbers(column)
    end
    put(row .. '\0m', 'x')
    return 'ok'
end

