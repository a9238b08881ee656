-- Every job given is queued afterwards: staged until it is due, or in its queue's list. Idempotent.
-- MySQL has just said READY, so Redis is believed in two cases only: the job is queued (staged or in the list), or it
-- was popped less than a second ago. Anything else (no hash, popped earlier, finished, failed) is written anew.
-- ARGV: now_us, now (ISO 8601), longest list, then per job (at most 1,000): id, queue, due_us, data, description
-- Answers how many jobs were written, and how many were left out because their list is full.
local now, written, full = tonumber(ARGV[1]), 0, 0
local queues = {}
for i = 4, #ARGV, 5 do
  local id, name, due = ARGV[i], ARGV[i + 1], ARGV[i + 2]
  local queue, hash = queues[name], 'rq:job:' .. id
  if not queue then
    queue = {list = 'rq:queue:' .. name, staged = 'clockjack:staged:' .. name, later = {}, now = {}}
    queue.length = redis.call('LLEN', queue.list)
    queues[name] = queue
  end
  local seen = redis.call('HMGET', hash, 'status', 'popped_us')
  local there = false
  if seen[1] == 'queued' then
    there = redis.call('ZSCORE', queue.staged, id) or queue.length > 1000 or redis.call('LPOS', queue.list, id)
  elseif seen[1] == 'started' then
    there = now - tonumber(seen[2] or 0) < 1000000
  end
  if not there then
    if queue.length + #queue.now >= tonumber(ARGV[3]) then
      full = full + 1
    else
      if seen[1] then
        redis.call('DEL', hash)
      end
      redis.call('HSET', hash, 'status', 'queued', 'created_at', ARGV[2], 'enqueued_at', ARGV[2], 'origin', name,
        'data', ARGV[i + 3], 'description', ARGV[i + 4], 'timeout', 3600, 'result_ttl', 0, 'failure_ttl', 3600)
      redis.call('EXPIRE', hash, 86400)
      if tonumber(due) > now then
        queue.later[#queue.later + 1] = due
        queue.later[#queue.later + 1] = id
      else
        queue.now[#queue.now + 1] = id
      end
      written = written + 1
    end
  end
end
for name, queue in pairs(queues) do
  if #queue.later + #queue.now > 0 then
    redis.call('SADD', 'rq:queues', queue.list)
  end
  if #queue.later > 0 then
    redis.call('ZADD', queue.staged, unpack(queue.later))
  end
  if #queue.now > 0 then
    redis.call('RPUSH', queue.list, unpack(queue.now))
  end
end
return {written, full}
