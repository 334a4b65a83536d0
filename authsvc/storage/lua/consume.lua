-- Takes hits from any number of counters, all or nothing, by the arithmetic of core/rates.py.
--
-- KEYS: the counters, each once. ARGV[1]: of each counter four doubles, one behind the other:
--   need      what its hits owe, in units; 0 looks, less gives back
--   capacity  the units that it may owe at most
--   scale     units a hit, or 0 for a fixed window, where a unit is a hit
--   pace      units repaid a microsecond; of a fixed window its length in microseconds
-- ARGV[2]: only there to look and take nothing.
-- Answers with the time in microseconds, and what each counter held before: nil at rest, else three doubles, what is
-- owed, units a hit, and the moment at which that holds.
--
-- Every number is whole and at most 2^52, where doubles are exact; a product beyond that only has to be larger than
-- what it is compared with. Numbers go to and fro as doubles, because text would cost a third of the script's time, and
-- because tostring and .. keep 14 digits of them.

local call, read = redis.call, struct.unpack

local time = call('TIME')
local now = time[1] * 1000000 + time[2]
local before = call('MGET', unpack(KEYS))
local values, lives = {}, {}
local need, capacity, scale, pace
local place = 1

for i = 1, #KEYS do
  need, capacity, scale, pace, place = read('<dddd', ARGV[1], place)
  local owed, at, held = 0, now, before[i]
  if scale == 0 then
    at = now - now % pace
  end
  if held then
    local was, old, seen = read('<ddd', held)
    if scale == 0 then
      if seen >= at then
        owed, at = was, seen
      end
    else
      if old ~= scale then
        -- ceil(was * scale / old), whose product needs up to 104 bits: whole hits, then the rest by long division.
        local hits = math.floor(was / old)
        local rest, left = was - hits * old, scale
        local quotient, remainder, bit = 0, 0, 2 ^ 52
        while bit >= 1 do
          quotient, remainder = 2 * quotient, 2 * remainder
          if remainder >= old then
            quotient, remainder = quotient + 1, remainder - old
          end
          if left >= bit then
            left, remainder = left - bit, remainder + rest
            if remainder >= old then
              quotient, remainder = quotient + 1, remainder - old
            end
          end
          bit = bit / 2
        end
        if remainder > 0 then
          quotient = quotient + 1
        end
        was = math.min(4503599627370496, hits * scale + quotient)
      end
      if now <= seen then
        owed, at = was, seen
      elseif was > (now - seen) * pace then
        owed = was - (now - seen) * pace
      end
    end
  end
  if need > 0 and need > capacity - owed then
    return {now, before}
  end
  if need ~= 0 then
    owed = math.max(0, owed + need)
    values[i] = owed > 0 and struct.pack('<ddd', owed, scale == 0 and 1 or scale, at)
    -- A second more than until it is at rest: a store drops it by a coarser clock.
    lives[i] = string.format('%d', (at - now + (scale == 0 and pace or owed / pace)) / 1000 + 1001)
  end
end

if not ARGV[2] then
  for i = 1, #KEYS do
    if values[i] then
      call('SET', KEYS[i], values[i], 'PX', lives[i])
    elseif lives[i] then
      call('DEL', KEYS[i])
    end
  end
end

return {now, before}
