-- Posts a JSON body and prints what wrk measured, with the whole histogram, as one JSON line.
wrk.method = "POST"
wrk.body = '{"a":1}'
wrk.headers["Content-Type"] = "application/json"

function done(summary, latency, requests)
  local cells = {}
  for i = 1, #latency do
    local us, count = latency(i)
    cells[#cells + 1] = string.format("[%d,%d]", us, count)
  end
  local errors = summary.errors
  io.write(string.format('\n{"requests":%d,"duration_us":%d,"errors":%d,"latency":[%s]}\n', summary.requests,
    summary.duration, errors.connect + errors.read + errors.write + errors.status + errors.timeout,
    table.concat(cells, ",")))
end
