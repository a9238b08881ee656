-- Every staged job that is due by `now_us` is in its queue's list. Removing comes first: a full Redis refuses the rest.
-- ARGV: now_us, most jobs a queue, longest list, then the queues
-- Answers {next due_us or -1, due_us of each job that was moved ...}
local now, most, moved, soonest = tonumber(ARGV[1]), tonumber(ARGV[2]), {''}, -1
for i = 4, #ARGV do
  local list, staged = 'rq:queue:' .. ARGV[i], 'clockjack:staged:' .. ARGV[i]
  local room = math.min(most, tonumber(ARGV[3]) - on('LLEN', list))
  if room > 0 then
    local due = on('ZRANGEBYSCORE', staged, '-inf', now, 'WITHSCORES', 'LIMIT', 0, room)
    local ids = {}
    for j = 1, #due, 2 do
      ids[#ids + 1] = due[j]
      moved[#moved + 1] = due[j + 1]
    end
    if #ids > 0 then
      redis.call('ZREM', staged, unpack(ids))
      redis.call('RPUSH', list, unpack(ids))
    end
    local head = redis.call('ZRANGE', staged, 0, 0, 'WITHSCORES')
    local next_us = head[2] and tonumber(head[2])
    if next_us and next_us < 9e15 and (soonest < 0 or next_us < soonest) then
      soonest = next_us
    end
  end
end
moved[1] = string.format('%.0f', soonest)
return moved
