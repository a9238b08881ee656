-- A queue that holds nothing is no longer listed, and what it was asked to keep is gone. ARGV: queue
local list = 'rq:queue:' .. ARGV[1]
if redis.call('LLEN', list) == 0 and redis.call('ZCARD', 'clockjack:staged:' .. ARGV[1]) == 0
  and redis.call('ZCARD', 'rq:wip:' .. ARGV[1]) == 0 then
  return redis.call('SREM', 'rq:queues', list)
end
return 0
