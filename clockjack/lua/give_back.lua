-- Popped jobs are queued again: at the head of the list when they are due, else in the sorted set.
-- ARGV: queue, worker, now_us, then per job: id, due_us
for i = #ARGV - 1, 4, -2 do
  local id, due = ARGV[i], ARGV[i + 1]
  on('ZREM', 'rq:wip:' .. ARGV[1], id .. ':' .. ARGV[2])
  if redis.call('EXISTS', 'rq:job:' .. id) == 1 then
    on('HSET', 'rq:job:' .. id, 'status', 'queued')
    redis.call('PERSIST', 'rq:job:' .. id)
    if tonumber(due) > tonumber(ARGV[3]) then
      on('ZADD', 'clockjack:staged:' .. ARGV[1], due, id)
    else
      on('LPUSH', 'rq:queue:' .. ARGV[1], id)
    end
  end
end
return 0
