-- What the other scripts begin with: the value that a plain reader would be given.
-- No value: nothing, a lease, a quarantine, a stale value, a tag, another type, or a
-- loaded value that is past its time (bytes 4 to 11 when flag 1 is set: fresh_until).
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

