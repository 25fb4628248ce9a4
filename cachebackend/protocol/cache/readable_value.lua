-- Prepended to other scripts: returns the record whose value a plain reader gets, or nil.
-- These hold no value: an empty key, a lease, a quarantine, a stale value, a tag, another type, and
-- a loaded value whose time is over (fresh_until: bytes 4 to 11, when flag 1 is set).
local function readable_value(key, now)
    local record = redis.pcall('GET', key)
    if type(record) ~= 'string' or string.find(record, '^[LQST]') then
        return nil
    end
    if string.byte(record) == 86 and #record >= 43 and bit.band(string.byte(record, 3), 1) == 1
        and struct.unpack('>d', string.sub(record, 4, 11)) <= tonumber(now) then
        return nil
    end
    return record
end

