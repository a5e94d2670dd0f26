"""One Lua script per atomic operation of the event log in Redis.

Theory of operation. Redis runs a script as one step, and writes its effects as one transaction to the append-only file
and to replicas. So after any crash an operation has happened entirely or not at all. A script declares every key that
it uses (Redis Cluster needs that) and checks everything before its first write. A script may run twice with one result,
because the client repeats a script whose answer was lost. An answer is a word and its values.

Numbers: microseconds since 1970 fit a Lua double exactly until 2255, but must be printed with `%.0f`.
"""

from __future__ import annotations

NOW = """
local function now_or(given)
    if given ~= '' then return given end
    local time = redis.call('TIME')
    return string.format('%.0f', time[1] * 1000000 + time[2])
end
"""

ENTRY = """
local function entry(id, position, micros, envelope)
    return table.concat({id, position, micros, envelope}, ' ')
end
local function position_of(found)
    return string.match(found[2][2], '^%S+ (%d+)')
end
"""

MARK = """
local function new_token(tokens, counter, stream)
    redis.call('HSET', tokens, stream, redis.call('INCR', counter))
end
local function make_dirty(dirty, tokens, counter, stream, now)
    if redis.call('ZADD', dirty, 'NX', now, stream) == 1 then new_token(tokens, counter, stream) end
end
"""

# KEYS stream all versions position dirty tokens counter lock
# ARGV stream expected lock now, then id and envelope of each event
# -> ok version | conflict version | lost
APPEND = (
    NOW
    + ENTRY
    + MARK
    + """
local expected, count = tonumber(ARGV[2]), (#ARGV - 4) / 2
local version = tonumber(redis.call('HGET', KEYS[3], ARGV[1]) or '0')
if version >= expected + count then
    -- Is it this very append, whose answer was lost?
    local place = string.format('%.0f-0', expected + 1)
    local there = redis.call('XRANGE', KEYS[1], place, place)[1]
    if there and string.match(there[2][2], '^%S+') == ARGV[5] then return {'ok', expected + count} end
end
if ARGV[3] ~= '' and redis.call('GET', KEYS[8]) ~= ARGV[3] then return {'lost'} end
if version ~= expected then return {'conflict', version} end
local now = now_or(ARGV[4])
local position = redis.call('INCRBY', KEYS[4], count) - count
for n = 1, count do
    redis.call('XADD', KEYS[1], string.format('%.0f-0', version + n),
        'e', entry(ARGV[3 + 2 * n], string.format('%.0f', position + n), now, ARGV[4 + 2 * n]))
    redis.call('XADD', KEYS[2], string.format('%.0f-0', position + n),
        's', ARGV[1], 'v', string.format('%.0f', version + n))
end
redis.call('HSET', KEYS[3], ARGV[1], version + count)
make_dirty(KEYS[5], KEYS[6], KEYS[7], ARGV[1], now)
return {'ok', version + count}
"""
)

# KEYS lock fence; ARGV token ttl(ms) -> the lock's value (fence:token), or false when another holder has it
LOCK = """
local held = redis.call('GET', KEYS[1])
if held then
    if string.sub(held, -#ARGV[1]) == ARGV[1] then return held end
    return false
end
local value = redis.call('INCR', KEYS[2]) .. ':' .. ARGV[1]
redis.call('SET', KEYS[1], value, 'PX', ARGV[2])
return value
"""

# KEYS lock; ARGV value ttl(ms) -> 1 | 0
KEEP = """
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end return redis.call('PEXPIRE', KEYS[1], ARGV[2])
"""

# KEYS lock; ARGV value -> 1 | 0
RELEASE = """
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end return redis.call('DEL', KEYS[1])
"""

# KEYS dirty tokens counter; ARGV stream now
MARK_DIRTY = (
    NOW
    + MARK
    + """
redis.call('ZADD', KEYS[1], 'NX', now_or(ARGV[2]), ARGV[1])
new_token(KEYS[2], KEYS[3], ARGV[1])
"""
)

# KEYS versions dirty tokens due lock stream; ARGV stream version token-or-'' until-or-'' lock-or-'' last-or-''
# -> clean | changed | lost
ACKNOWLEDGE = """
if ARGV[5] ~= '' and redis.call('GET', KEYS[5]) ~= ARGV[5] then return 'lost' end
if (redis.call('HGET', KEYS[1], ARGV[1]) or '0') ~= ARGV[2] then return 'changed' end
if ARGV[3] ~= '' and (redis.call('HGET', KEYS[3], ARGV[1]) or '0') ~= ARGV[3] then return 'changed' end
if ARGV[6] ~= '' then
    local there = redis.call('XRANGE', KEYS[6], ARGV[2] .. '-0', ARGV[2] .. '-0')[1]
    if not there or string.match(there[2][2], '^%S+') ~= ARGV[6] then return 'changed' end
end
redis.call('ZREM', KEYS[2], ARGV[1])
redis.call('HDEL', KEYS[3], ARGV[1])
if ARGV[4] == '' then
    redis.call('ZREM', KEYS[4], ARGV[1])
else
    redis.call('ZADD', KEYS[4], ARGV[4], ARGV[1])
end
return 'clean'
"""

# KEYS dirty; ARGV age(us) limit now -> streams
TAKE_DIRTY = (
    NOW
    + """
local now = now_or(ARGV[3])
local oldest = string.format('%.0f', now - ARGV[1])
local taken = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', oldest, 'LIMIT', 0, ARGV[2])
for _, stream in ipairs(taken) do redis.call('ZADD', KEYS[1], 'XX', now, stream) end
return taken
"""
)

# KEYS due dirty tokens counter; ARGV until limit now -> streams
TAKE_DUE = (
    NOW
    + MARK
    + """
local now = now_or(ARGV[3])
local taken = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', ARGV[1], 'LIMIT', 0, ARGV[2])
for _, stream in ipairs(taken) do
    redis.call('ZREM', KEYS[1], stream)
    redis.call('ZADD', KEYS[2], 'NX', now, stream)
    new_token(KEYS[3], KEYS[4], stream)
end
return taken
"""
)

# KEYS versions snapshots heads trimmed; ARGV stream version fingerprint snapshot -> 1 | 0
SAVE_SNAPSHOT = """
local version = tonumber(ARGV[2])
if version > tonumber(redis.call('HGET', KEYS[1], ARGV[1]) or '0') then return 0 end
if version < tonumber(redis.call('HGET', KEYS[4], ARGV[1]) or '0') then return 0 end
local kept = redis.call('HGET', KEYS[3], ARGV[1])
if kept then
    local at, fingerprint = string.match(kept, '^(%d+) (.*)$')
    if fingerprint == ARGV[3] and tonumber(at) > version then return 0 end
end
redis.call('HSET', KEYS[2], ARGV[1], ARGV[4])
redis.call('HSET', KEYS[3], ARGV[1], ARGV[2] .. ' ' .. ARGV[3])
return 1
"""

# KEYS snapshots heads trimmed -> how many were dropped
DROP_SNAPSHOTS = """
local dropped = 0
for _, stream in ipairs(redis.call('HKEYS', KEYS[1])) do
    if redis.call('HEXISTS', KEYS[3], stream) == 0 then
        redis.call('HDEL', KEYS[1], stream)
        redis.call('HDEL', KEYS[2], stream)
        dropped = dropped + 1
    end
end
return dropped
"""

# KEYS stream all heads trimmed versions; ARGV stream through limit -> ok count | refused last-that-may-go
TRIM = (
    ENTRY
    + """
local snapshot = tonumber(string.match(redis.call('HGET', KEYS[3], ARGV[1]) or '0', '^%d+'))
local last = math.min(snapshot, tonumber(redis.call('HGET', KEYS[5], ARGV[1]) or '0') - 1)
if last < tonumber(ARGV[2]) then return {'refused', last} end
local gone = redis.call('XRANGE', KEYS[1], '-', ARGV[2] .. '-0', 'COUNT', ARGV[3])
for _, found in ipairs(gone) do
    redis.call('XDEL', KEYS[2], position_of(found) .. '-0')
    redis.call('XDEL', KEYS[1], found[1])
    redis.call('HSET', KEYS[4], ARGV[1], string.match(found[1], '^%d+'))
end
return {'ok', #gone}
"""
)

# KEYS stream all versions dirty tokens due snapshots heads trimmed lock; ARGV stream version
# -> ok count | refused version
FORGET = (
    ENTRY
    + """
local version = redis.call('HGET', KEYS[3], ARGV[1]) or '0'
if version ~= ARGV[2] or redis.call('ZSCORE', KEYS[4], ARGV[1]) or redis.call('EXISTS', KEYS[10]) == 1 then
    return {'refused', version}
end
local gone = redis.call('XRANGE', KEYS[1], '-', '+')
for _, found in ipairs(gone) do redis.call('XDEL', KEYS[2], position_of(found) .. '-0') end
redis.call('DEL', KEYS[1])
for _, hash in ipairs({KEYS[3], KEYS[5], KEYS[7], KEYS[8], KEYS[9]}) do redis.call('HDEL', hash, ARGV[1]) end
redis.call('ZREM', KEYS[6], ARGV[1])
return {'ok', #gone}
"""
)

# KEYS all versions position dirty tokens counter, then the stream's key of each record
# ARGV now, then stream version position micros id envelope of each record
# -> ok | version n actual | position n actual
RESTORE = (
    NOW
    + ENTRY
    + MARK
    + """
local count = (#ARGV - 1) / 6
local versions, position = {}, tonumber(redis.call('GET', KEYS[3]) or '0')
for n = 1, count do
    local stream, version, place = ARGV[6 * n - 4], tonumber(ARGV[6 * n - 3]), tonumber(ARGV[6 * n - 2])
    local at = versions[stream] or tonumber(redis.call('HGET', KEYS[2], stream) or '0')
    if version ~= at + 1 then return {'version', n, at} end
    if place <= position then return {'position', n, position} end
    versions[stream], position = version, place
end
local now = now_or(ARGV[1])
for n = 1, count do
    local at = 6 * n - 4
    redis.call('XADD', KEYS[6 + n], ARGV[at + 1] .. '-0',
        'e', entry(ARGV[at + 4], ARGV[at + 2], ARGV[at + 3], ARGV[at + 5]))
    redis.call('XADD', KEYS[1], ARGV[at + 2] .. '-0', 's', ARGV[at], 'v', ARGV[at + 1])
    redis.call('HSET', KEYS[2], ARGV[at], ARGV[at + 1])
    make_dirty(KEYS[4], KEYS[5], KEYS[6], ARGV[at], now)
end
redis.call('SET', KEYS[3], string.format('%.0f', position))
return {'ok'}
"""
)

# KEYS versions trimmed snapshots heads dirty tokens counter; ARGV stream through version fingerprint snapshot now
# -> 1 | 0
RESTORE_TRIMMED = (
    NOW
    + MARK
    + """
if redis.call('HEXISTS', KEYS[1], ARGV[1]) == 1 then return 0 end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
redis.call('HSET', KEYS[2], ARGV[1], ARGV[2])
redis.call('HSET', KEYS[3], ARGV[1], ARGV[5])
redis.call('HSET', KEYS[4], ARGV[1], ARGV[3] .. ' ' .. ARGV[4])
make_dirty(KEYS[5], KEYS[6], KEYS[7], ARGV[1], now_or(ARGV[6]))
return 1
"""
)

SCRIPTS = {
    "APPEND": APPEND,
    "LOCK": LOCK,
    "KEEP": KEEP,
    "RELEASE": RELEASE,
    "MARK_DIRTY": MARK_DIRTY,
    "ACKNOWLEDGE": ACKNOWLEDGE,
    "TAKE_DIRTY": TAKE_DIRTY,
    "TAKE_DUE": TAKE_DUE,
    "SAVE_SNAPSHOT": SAVE_SNAPSHOT,
    "DROP_SNAPSHOTS": DROP_SNAPSHOTS,
    "TRIM": TRIM,
    "FORGET": FORGET,
    "RESTORE": RESTORE,
    "RESTORE_TRIMMED": RESTORE_TRIMMED,
}
