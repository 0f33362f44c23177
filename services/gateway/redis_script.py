"""The script that decides about all shared limits of a call at once, in Redis' own time."""

from __future__ import annotations

import hashlib

__all__ = ["SCRIPT", "SHA"]

# KEYS: one per level. ARGV, for each: unit, drain, room (as in redis_units.py), whether it enforces (2: and is told of), and the
# call's cost.
# A value is "<debt> <microseconds>": what was owed, and when. Its end is when nothing is owed any more.
# Answers 0: let in, and charged.
# {0, level, units left, microseconds until all are, levels…}: the same; the first level is the one, of those that are told of,
# that has the least of its burst left (0: none is); the others are over and only observe, and are not charged.
# {level, microseconds to wait, units left, microseconds until all are}: refused by this level; no level is charged.
# A clock that is set back (or another server's, after a failover) pays nothing off, and locks nobody out: debts count from its
# new time on, which is written down at once.
SCRIPT = """
local function keep(key, debt, now, drain)
  local ttl = string.format('%.0f', math.ceil(debt / drain / 1000) + 1)
  redis.call('SET', key, string.format('%.0f %.0f', debt, now), 'PX', ttl)
end
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local values = redis.call('MGET', unpack(KEYS))
local debts, over, refused, longest = {}, {}, 0, -1
local near, fullest, left, reset = 0, -1, 0, 0
for i = 1, #KEYS do
  local a = (i - 1) * 5
  local unit, drain, room = tonumber(ARGV[a + 1]), tonumber(ARGV[a + 2]), tonumber(ARGV[a + 3])
  local debt = 0
  if values[i] then
    local owed, since = string.match(values[i], '^(%d+) (%d+)$')
    if not owed then return redis.error_reply('LIMIT ' .. KEYS[i] .. ' holds something else') end
    local elapsed = now - tonumber(since)
    debt = tonumber(owed)
    if elapsed > 0 then debt = math.max(0, debt - elapsed * drain) end
    if elapsed < 0 then keep(KEYS[i], debt, now, drain) end
  end
  local after = debt + tonumber(ARGV[a + 5]) * unit
  if after <= room then
    debts[i] = after
    if ARGV[a + 4] == '2' and refused == 0 and after / room > fullest then
      near, fullest = i, after / room
      left, reset = math.floor((room - after) / unit), math.ceil(after / drain)
    end
  elseif ARGV[a + 4] ~= '0' then
    local wait = math.ceil((after - room) / drain)
    if wait > longest then
      refused, longest = i, wait
      left, reset = math.floor(math.max(0, room - debt) / unit), math.ceil(debt / drain)
    end
  else
    over[#over + 1] = i
  end
end
if refused > 0 then return {refused, longest, left, reset} end
for i, debt in pairs(debts) do keep(KEYS[i], debt, now, tonumber(ARGV[(i - 1) * 5 + 2])) end
if near > 0 or #over > 0 then return {0, near, left, reset, unpack(over)} end
return 0
""".strip()

SHA = hashlib.sha1(SCRIPT.encode(), usedforsecurity=False).hexdigest()  # as EVALSHA names it
