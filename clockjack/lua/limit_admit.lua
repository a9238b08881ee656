-- Which of these runs of one limit may begin now.
-- A run for which a place is kept already (limit_next) may. Any other may while there is more room than runs that wait.
-- ARGV: limit, queue, now_us, kept until (us), most at once (0: any), most in a window (0: any), window (us), then per run:
-- job id, the entry under which it may have waited
-- Answers for each run 0, or how many wait with it.
local base = 'clockjack:limit:' .. ARGV[1]
local held, starts, waiting = base .. ':held', base .. ':starts', base .. ':waiting:' .. ARGV[2]
local now, most, often = tonumber(ARGV[3]), tonumber(ARGV[5]), tonumber(ARGV[6])
on('ZREMRANGEBYSCORE', held, '-inf', now)
on('ZREMRANGEBYSCORE', starts, '-inf', now - tonumber(ARGV[7]))
local before = on('ZCARD', waiting)
local answers, denied = {}, 0
for i = 8, #ARGV, 2 do
  local job = ARGV[i]
  redis.call('ZREM', waiting, ARGV[i + 1])
  local kept = redis.call('ZSCORE', held, job)
  local room = math.huge
  if most > 0 then room = most - redis.call('ZCARD', held) end
  if often > 0 then room = math.min(room, often - redis.call('ZCARD', starts)) end
  if kept or room > math.min(before, redis.call('ZCARD', waiting)) then
    redis.call('ZADD', held, ARGV[4], job)
    if often > 0 and not kept then redis.call('ZADD', starts, now, job) end
    answers[#answers + 1] = 0
  else
    denied = denied + 1
    answers[#answers + 1] = redis.call('ZCARD', waiting) + denied
  end
end
redis.call('PEXPIRE', held, 60000)
redis.call('PEXPIRE', starts, math.ceil(ARGV[7] / 1000) + 1000)
return answers
