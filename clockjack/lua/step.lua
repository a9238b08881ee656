-- A consumer's one call a step: what it finished is acknowledged, and the next jobs are popped.
-- An acknowledgement that finds its own entry gone touches nothing. Removing comes first: a full Redis refuses the rest.
-- More than what can begin at once (`free`) is popped only up to this consumer's share of a long list: what one hoards,
-- another could have begun.
-- ARGV: queue, worker, now_us, most jobs to pop (500), free, consumers of the queue, then the ids to acknowledge (1,000:
-- what is unpacked must stay below 8,000 values)
-- Answers {1 if `rq suspend` is on else 0, then the data of each popped job}
local wip, done = 'rq:wip:' .. ARGV[1], {}
for i = 7, #ARGV do
  done[#done + 1] = ARGV[i] .. ':' .. ARGV[2]
end
if #done > 0 then
  local there, hashes = on('ZMSCORE', wip, unpack(done)), {}
  for i = 1, #done do
    if there[i] then
      hashes[#hashes + 1] = 'rq:job:' .. ARGV[i + 6]
    end
  end
  redis.call('ZREM', wip, unpack(done))
  if #hashes > 0 then
    redis.call('DEL', unpack(hashes))
  end
end
local suspended, most = redis.call('EXISTS', 'rq:suspended'), tonumber(ARGV[4])
if suspended == 1 or most < 1 then
  return {suspended}
end
local list = 'rq:queue:' .. ARGV[1]
local share = math.ceil(on('LLEN', list) / math.max(1, tonumber(ARGV[6])))
most = math.min(most, math.max(tonumber(ARGV[5]), share))
local ids, popped = most > 0 and redis.call('LPOP', list, most) or {}, {0}
local expires, kept = math.floor(tonumber(ARGV[3]) / 1000000) + 60, {}
local junk = false
for _, id in ipairs(ids) do
  local hash = 'rq:job:' .. id
  local data = on('HGET', hash, 'data')
  if data and #data <= 1000 then
    redis.call('HSET', hash, 'status', 'started', 'popped_us', ARGV[3])
    kept[#kept + 1] = expires
    kept[#kept + 1] = id .. ':' .. ARGV[2]
    popped[#popped + 1] = data
  else -- its hash is gone, or none of ours
    junk = true
    redis.call('DEL', hash)
  end
end
if junk then -- a list that was filled with such ids is gone through a thousand at a time
  local heads, n = redis.call('LRANGE', list, 0, 999), 0
  while heads[n + 1] and redis.call('EXISTS', 'rq:job:' .. heads[n + 1]) == 0 do
    n = n + 1
  end
  if n > 0 then
    redis.call('LPOP', list, n)
  end
end
if #kept > 0 then
  on('ZADD', wip, unpack(kept))
end
return popped
