-- Takes hits from any number of counters, all or nothing, by the arithmetic of core/rates.py.
--
-- KEYS: the counters, each once. ARGV: "1" to look only, else "0"; then a counter four whole numbers:
--   need      what its hits owe, in units; 0 looks, less gives back
--   capacity  the units that it may owe at most
--   scale     units a hit, or 0 for a fixed window, where a unit is a hit
--   pace      units repaid a microsecond; of a fixed window its length in microseconds
-- Answers with the time in microseconds, and what each counter held before: "owed:scale:at", or nil at rest.
--
-- Every number is whole and below 2^53, where doubles are exact; a product beyond that only has to be larger than what
-- it is compared with. Numbers are written by %.0f, because tostring and .. keep 14 digits.

-- ceil(owed * scale / old), whose product needs up to 104 bits: whole hits, then the rest by long division.
local function rescaled(owed, old, scale)
  local hits = math.floor(owed / old)
  local rest = owed - hits * old
  local quotient, remainder, bit = 0, 0, 2 ^ 52
  while bit >= 1 do
    quotient, remainder = 2 * quotient, 2 * remainder
    if remainder >= old then
      quotient, remainder = quotient + 1, remainder - old
    end
    if scale >= bit then
      scale, remainder = scale - bit, remainder + rest
      if remainder >= old then
        quotient, remainder = quotient + 1, remainder - old
      end
    end
    bit = bit / 2
  end
  if remainder > 0 then
    quotient = quotient + 1
  end
  return hits, quotient
end

local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local before = redis.call('MGET', unpack(KEYS))
local passes = true
local after = {}

for i = 1, #KEYS do
  local need, capacity = tonumber(ARGV[4 * i - 2]), tonumber(ARGV[4 * i - 1])
  local scale, pace = tonumber(ARGV[4 * i]), tonumber(ARGV[4 * i + 1])
  local owed, at = 0, now
  if scale == 0 then
    at = now - now % pace
  end
  if before[i] then
    local was, old, seen = string.match(before[i], '^(%d+):(%d+):(%d+)$')
    was, old, seen = tonumber(was), tonumber(old), tonumber(seen)
    if scale == 0 then
      if seen >= at then
        owed, at = was, seen
      end
    else
      if old ~= scale then
        local hits, rest = rescaled(was, old, scale)
        was = math.min(4503599627370496, hits * scale + rest)
      end
      if now <= seen then
        owed, at = was, seen
      else
        owed = math.max(0, was - (now - seen) * pace)
      end
    end
  end
  if need > 0 and need > capacity - owed then
    passes = false
  end
  if need ~= 0 then
    owed = math.max(0, owed + need)
    after[i] = {owed, scale, at, pace}
  end
end

if passes and ARGV[1] == '0' then
  for i = 1, #KEYS do
    if after[i] then
      local owed, scale, at, pace = unpack(after[i])
      if owed == 0 then
        redis.call('DEL', KEYS[i])
      else
        local rest = at - now + (scale == 0 and pace or owed / pace)
        redis.call(
          'SET', KEYS[i], string.format('%.0f:%.0f:%.0f', owed, math.max(1, scale), at),
          -- A second more than until it is at rest: a store drops it by a coarser clock.
          'PX', string.format('%.0f', math.ceil(rest / 1000) + 1000)
        )
      end
    end
  end
end

return {now, before}
