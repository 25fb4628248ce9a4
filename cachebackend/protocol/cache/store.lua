-- What scripts begin with that store a record: the key, the record, and the time to live in
-- milliseconds; -1: for ever; -3: as it was.
local function store(key, record, life)
    if life == '-1' then
        return redis.call('SET', key, record)
    elseif life == '-3' then
        return redis.call('SET', key, record, 'KEEPTTL')
    end
    return redis.call('SET', key, record, 'PX', life)
end

