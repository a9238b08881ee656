-- Runs that waited for their limits and may begin now, the earliest due first: a place is kept for each.
-- ARGV: queue, now_us, kept until (us), room, then per limit: limit, most at once (0: any), most in a window (0: any),
-- window (us)
-- Answers for each limit how many still wait, then of those that may begin: the number of the limit, a space, the entry.
local now, left = tonumber(ARGV[2]), tonumber(ARGV[4])
local answers, entries = {}, {}
for i = 5, #ARGV, 4 do
  local base = 'clockjack:limit:' .. ARGV[i]
  local held, starts, waiting = base .. ':held', base .. ':starts', base .. ':waiting:' .. ARGV[1]
  local most, often = tonumber(ARGV[i + 1]), tonumber(ARGV[i + 2])
  on('ZREMRANGEBYSCORE', held, '-inf', now)
  on('ZREMRANGEBYSCORE', starts, '-inf', now - tonumber(ARGV[i + 3]))
  on('ZCARD', waiting)
  local room = left
  if most > 0 then room = math.min(room, most - redis.call('ZCARD', held)) end
  if often > 0 then room = math.min(room, often - redis.call('ZCARD', starts)) end
  if room > 0 then
    local found = redis.call('ZPOPMIN', waiting, room)
    for j = 1, #found, 2 do
      local job = string.match(found[j], '^%S+')
      redis.call('ZADD', held, ARGV[3], job)
      if often > 0 then redis.call('ZADD', starts, now, job) end
      entries[#entries + 1], left = (i - 5) / 4 .. ' ' .. found[j], left - 1
    end
    redis.call('PEXPIRE', held, 60000)
    redis.call('PEXPIRE', starts, math.ceil(ARGV[i + 3] / 1000) + 1000)
  end
  answers[#answers + 1] = redis.call('ZCARD', waiting)
end
for _, entry in ipairs(entries) do answers[#answers + 1] = entry end
return answers
