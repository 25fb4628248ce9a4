-- Prepended to other scripts: returns whether a key holds a quarantine. One that never expires is
-- none: no process of this project has stored it.
local function is_quarantined(key)
    return redis.pcall('GETRANGE', key, 0, 0) == 'Q' and redis.call('PTTL', key) ~= -1
end

