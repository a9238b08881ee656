-- Comes before every script. Redis is a cache that others may write to: a key whose type is not ours is deleted, and the
-- command is sent again. Used where a script touches a key for the first time.
local function on(command, key, ...)
  local answer = redis.pcall(command, key, ...)
  if type(answer) == 'table' and answer.err then
    if not string.find(answer.err, 'WRONGTYPE', 1, true) then
      error(answer.err, 0)
    end
    redis.call('DEL', key)
    return redis.call(command, key, ...)
  end
  return answer
end
