-- A queue that holds nothing is no longer listed, and what it was asked to keep is gone. ARGV: queue
local list = 'rq:queue:' .. ARGV[1]
if on('LLEN', list) == 0 and on('ZCARD', 'clockjack:staged:' .. ARGV[1]) == 0
  and on('ZCARD', 'rq:wip:' .. ARGV[1]) == 0 then
  return on('SREM', 'rq:queues', list)
end
return 0
