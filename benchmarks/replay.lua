-- Sends the requests of a file, round and round, and prints what happened as one line of JSON.
-- Usage: wrk … -s replay.lua URL -- FILE METHOD THREADS [BODY]
local next_thread = 0

function setup(thread)
  thread:set("number", next_thread)
  next_thread = next_thread + 1
end

function init(arguments)
  local method, threads, body = arguments[2], tonumber(arguments[3]), nil
  if arguments[4] then
    local file = assert(io.open(arguments[4], "rb"))
    body = file:read("*a")
    file:close()
  end
  requests, at = {}, 0
  local line_number = 0
  for line in io.lines(arguments[1]) do
    if line_number % threads == number then
      -- Large bodies are put together when they are sent: a thousand copies would not fit into memory.
      requests[#requests + 1] = body and line or wrk.format(method, line)
    end
    line_number = line_number + 1
  end
  function request()
    at = at % #requests + 1
    return body and wrk.format(method, requests[at], nil, body) or requests[at]
  end
end

function done(summary, latency)
  local failed = summary.errors
  print(string.format(
    '\nRESULT {"requests": %d, "duration_us": %d, "received_bytes": %d, "p50_us": %d, "p99_us": %d, "failed": %d}',
    summary.requests, summary.duration, summary.bytes, latency:percentile(50), latency:percentile(99),
    failed.status + failed.connect + failed.read + failed.write + failed.timeout))
end
