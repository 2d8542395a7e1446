#!/usr/bin/env bash
# Versions: openai 3.57.0
# Behaviour: the OpenAI SDK obeys the `retry-after` of a 429 up to 120 seconds, inside `create()`. If it is longer, the
#   SDK does not use its own shorter backoff: it raises at once, without any retry, whatever `max_retries` says.
# Output: retry-after 2, 61, 119: waits that long, then answered; 121, 3600: RateLimitError after 1 request, no wait
# Guessed before: above 60 seconds the header is ignored and the usual backoff of 0.5 to 8 seconds applies. Second
#   guess, after seeing 61 obeyed: above some higher bound the usual backoff applies.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m venv "$dir/venv"
"$dir/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check openai==3.57.0

cat >"$dir/expected" <<'END'
retry-after 2: answered, 2 requests, waited [2]
retry-after 61: answered, 2 requests, waited [61]
retry-after 119: answered, 2 requests, waited [119]
retry-after 121: RateLimitError, 1 requests, waited []
retry-after 3600: RateLimitError, 1 requests, waited []
END

"$dir/venv/bin/python" - >"$dir/seen" <<'END'
import json
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import openai

sent = []


class Handler(BaseHTTPRequestHandler):
    """Rejects each model's first request with the retry-after that its name is."""

    def do_POST(self):
        model = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["model"]
        sent.append(model)
        first = sent.count(model) == 1
        choice = {"index": 0, "message": {"role": "assistant", "content": "Hi."}, "finish_reason": "stop"}
        answer = {"id": "1", "object": "chat.completion", "created": 1, "model": model, "choices": [choice]}
        self.send_response(429 if first else 200)
        self.send_header("Content-Type", "application/json")
        if first:
            self.send_header("retry-after", model)
        self.end_headers()
        self.wfile.write(json.dumps({"error": {"message": "slow down"}} if first else answer).encode())

    def log_message(self, *_):
        pass


server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
Thread(target=server.serve_forever, daemon=True).start()
client = openai.OpenAI(base_url=f"http://127.0.0.1:{server.server_port}/v1", api_key="none", max_retries=4)
waits = []
time.sleep = lambda seconds: waits.append(round(seconds))  # The waits are noted, not sat out.

for seconds in ("2", "61", "119", "121", "3600"):
    waits.clear()
    try:
        client.chat.completions.create(model=seconds, messages=[{"role": "user", "content": "Hello"}])
        outcome = "answered"
    except openai.RateLimitError as error:
        outcome = type(error).__name__
    print(f"retry-after {seconds}: {outcome}, {sent.count(seconds)} requests, waited {waits}")
END

diff -u "$dir/expected" "$dir/seen"
