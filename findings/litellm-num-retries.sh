#!/usr/bin/env bash
# Versions: litellm 1.110.2, openai 3.57.0, tenacity 9.2.1
# Behaviour: LiteLLM's `num_retries=2` retries requests that no retry can fix: an invalid request (400), a wrong key
#   (401), an unknown model (404). `max_retries=2`, its other option for retries, does not. Where a retry helps (503)
#   the SDK's own two retries come on top: five requests.
# Output: 400, 401, 404: 3 requests with num_retries=2, 1 with max_retries=2; 503: 5 and 3
# Guessed before: both options send a 400, 401 or 404 once, and a 503 three times.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m venv "$dir/venv"
"$dir/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check \
    litellm==1.110.2 openai==3.57.0 tenacity==9.2.1
export LITELLM_LOCAL_MODEL_COST_MAP=True

cat >"$dir/expected" <<'END'
400: num_retries=2: 3 requests, max_retries=2: 1 requests
401: num_retries=2: 3 requests, max_retries=2: 1 requests
404: num_retries=2: 3 requests, max_retries=2: 1 requests
503: num_retries=2: 5 requests, max_retries=2: 3 requests
END

"$dir/venv/bin/python" - >"$dir/seen" 2>"$dir/log" <<'END' || { cat "$dir/log" >&2; exit 1; }
import json
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import litellm
import openai

sent = []


class Handler(BaseHTTPRequestHandler):
    """Answers with the status that the model's name is."""

    def do_POST(self):
        status = int(json.loads(self.rfile.read(int(self.headers["Content-Length"])))["model"])
        sent.append(status)
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("retry-after-ms", "10")
        self.end_headers()
        self.wfile.write(b'{"error": {"message": "not now", "type": "an_error", "code": null}}')

    def log_message(self, *_):
        pass


litellm.suppress_debug_info = True
server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
Thread(target=server.serve_forever, daemon=True).start()


def count(status, **retries):
    sent.clear()
    try:
        litellm.completion(
            model=f"openai/{status}",
            messages=[{"role": "user", "content": "Hello"}],
            api_base=f"http://127.0.0.1:{server.server_port}/v1",
            api_key="none",
            **retries,
        )
    except openai.OpenAIError:
        pass
    return f"{len(sent)} requests"


for status in (400, 401, 404, 503):
    print(f"{status}: num_retries=2: {count(status, num_retries=2)}, max_retries=2: {count(status, max_retries=2)}")
END

diff -u "$dir/expected" "$dir/seen"
