-- Prepended to scripts that store a record: the key, the record, and its time to live in
-- milliseconds; -1: no expiry; -3: unchanged.
local function store(key, record, life)
    if life == '-1' then
        return redis.call('SET', key, record)
    elseif life == '-3' then
        return redis.call('SET', key, record, 'KEEPTTL')
    end
    return redis.call('SET', key, record, 'PX', life)
end

