-- Prepended to fold.lua: the open batch, its limits, and the bytes of its fields. KEYS[2] is the batch; after a
-- seal it is KEYS[3].

local batch_fields, max_fields, batch_bytes, max_bytes, expected, name =
    string.match(ARGV[4], '^(%d+) (%d+) (%d+) (%d+) (%d+) (.+)$')
local partitions = redis.call('GET', KEYS[5])
if partitions ~= expected then
    return redis.error_reply('PARTITIONS ' .. (partitions or 'none'))
end
if not open then
    open = '1'
    redis.call('HSET', KEYS[1], 'open', open, 'born', ARGV[3])
end
if open ~= ARGV[1] then
    return -tonumber(open)
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

