-- May this API key ask once more? Kept of a key is one number: the moment (us) at which its whole burst is free again.
-- ARGV: key, now_us, us for each request, burst
-- Answers 1 or 0, how many more may ask at once, in how many us the next one may, in how many us the burst is whole.
local key = 'clockjack:rate:' .. ARGV[1]
local now, each, burst = tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local last, kept = now + each * burst, tonumber(on('GET', key))
local whole = now
if kept and kept > now then whole = math.min(kept, last) end
local allowed = whole + each <= last
if allowed then whole = whole + each end
-- also what was refused because of a number that lies too far ahead: a clock was set back, or somebody else wrote it
if allowed or kept > last then
  redis.call('SET', key, string.format('%.0f', whole), 'PX', math.ceil((whole - now) / 1000) + 1000)
end
return {allowed and 1 or 0, math.floor((last - whole) / each), math.max(0, whole + each - last), whole - now}
