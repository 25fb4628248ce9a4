-- Prepended to other scripts: returns the record whose value a plain reader gets, or nil.
-- These hold no value: an empty key, a lease, a quarantine, a stale value, a tag, another type, a
-- loaded value whose time is over (fresh_until: bytes 4 to 11, when flag 1 is set), and a value
-- whose tags have changed (flag 2; see tags.py).
--   verdict  '' at first; else the tag block that was checked, after '1' (valid) or '0' (changed)
--   returns  the record, or nil; then the tag block, if it must be checked first
local function readable_value(key, now, verdict)
    local record = redis.pcall('GET', key)
    if type(record) ~= 'string' or string.find(record, '^[LQST]') then
        return nil
    end
    if string.byte(record) ~= 86 or #record < 5 then
        return record
    end
    local flags, block = string.byte(record, 3), 4
    if bit.band(flags, 1) == 1 and #record >= 43 then
        if struct.unpack('>d', string.sub(record, 4, 11)) <= tonumber(now) then
            return nil
        end
        block = 44
    end
    if bit.band(flags, 2) == 2 and #record > block then
        local tags = string.sub(record, block, block + 1 + struct.unpack('>H', record, block))
        if string.sub(verdict, 2) ~= tags then
            return nil, tags
        elseif string.sub(verdict, 1, 1) == '0' then
            return nil
        end
    end
    return record
end

