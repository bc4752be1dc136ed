-- Sends prepared requests in turn. `args[1]` is a file with a request a line: method, path,
-- key and body, with tabs between them.

local requests = {}
local at = 0

function init(args)
   for line in io.lines(args[1]) do
      local method, path, key, body = line:match("^([^\t]*)\t([^\t]*)\t([^\t]*)\t(.*)$")
      local headers = {}
      if key ~= "" then headers["X-API-Key"] = key end
      if body == "" then body = nil else headers["Content-Type"] = "application/json" end
      requests[#requests + 1] = wrk.format(method, path, headers, body)
   end
   -- Says that the load begins: it is timed from here on.
   io.stderr:write("ready\n")
   io.stderr:flush()
end

function request()
   at = at % #requests + 1
   return requests[at]
end

function done(summary)
   local errors = summary.errors
   io.write(string.format(
      '{"seconds":%.6f,"requests":%d,"bytes":%d,' ..
      '"errors":{"connect":%d,"read":%d,"write":%d,"timeout":%d,"status":%d}}\n',
      summary.duration / 1e6, summary.requests, summary.bytes,
      errors.connect, errors.read, errors.write, errors.timeout, errors.status))
end
