-- Every job given is queued afterwards: staged until it is due, or in its queue's list. Idempotent.
-- MySQL has just said READY, so Redis is believed in two cases only: the job is queued (staged or in the list), or it
-- was popped less than a second ago. Anything else (no hash, popped earlier, finished, failed) is written anew.
-- ARGV: now_us, now (ISO 8601), longest list, then per job: id, queue, due_us, data, description
-- Answers how many jobs were written, and how many were left out because their list is full.
local now, written, full = tonumber(ARGV[1]), 0, 0
for i = 4, #ARGV, 5 do
  local id, queue, due = ARGV[i], ARGV[i + 1], ARGV[i + 2]
  local hash, list, staged = 'rq:job:' .. id, 'rq:queue:' .. queue, 'clockjack:staged:' .. queue
  local seen = redis.call('HMGET', hash, 'status', 'popped_us')
  local length = redis.call('LLEN', list)
  local there = false
  if seen[1] == 'queued' then
    there = redis.call('ZSCORE', staged, id) or length > 1000 or redis.call('LPOS', list, id)
  elseif seen[1] == 'started' then
    there = now - tonumber(seen[2] or 0) < 1000000
  end
  if not there then
    if length >= tonumber(ARGV[3]) then
      full = full + 1
    else
      redis.call('DEL', hash)
      redis.call('HSET', hash, 'status', 'queued', 'created_at', ARGV[2], 'enqueued_at', ARGV[2], 'origin', queue,
        'data', ARGV[i + 3], 'description', ARGV[i + 4], 'timeout', 3600, 'result_ttl', 0, 'failure_ttl', 3600,
        'due_us', due, 'pushed_us', ARGV[1])
      redis.call('EXPIRE', hash, 86400)
      redis.call('SADD', 'rq:queues', list)
      if tonumber(due) > now then
        redis.call('ZADD', staged, due, id)
      else
        redis.call('RPUSH', list, id)
      end
      written = written + 1
    end
  end
end
return {written, full}
