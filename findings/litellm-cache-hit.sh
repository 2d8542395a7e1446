#!/usr/bin/env bash
# Versions: litellm 1.110.2, openai 3.57.0
# Behaviour: on a plain install, LiteLLM's in-memory cache stores an answer, but the first hit raises: the code that
#   reads it back imports LiteLLM's proxy, whose dependencies a plain install lacks. A request to another server is a
#   hit too: the cache key contains neither `api_base` nor the content of `extra_body`.
# Output: equal keys for two servers and for two bodies; first call answered, second ModuleNotFoundError, 1 request
# Guessed before: another address or body makes another key; a repeated call is answered from memory.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m venv "$dir/venv"
"$dir/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check litellm==1.110.2 openai==3.57.0
export LITELLM_LOCAL_MODEL_COST_MAP=True

cat >"$dir/expected" <<'END'
same key for another temperature: False
same key for another extra_body: True
same key for another api_base: True
first call: Hello from the first server
second call, same server: ModuleNotFoundError
second call, another server: ModuleNotFoundError
requests sent: 1 and 0
END

"$dir/venv/bin/python" - >"$dir/seen" 2>"$dir/log" <<'END' || { cat "$dir/log" >&2; exit 1; }
import json
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import litellm
from litellm.caching.caching import Cache

sent = []


class Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        sent.append(self.server.name)
        message = {"role": "assistant", "content": f"Hello from the {self.server.name} server"}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        answer = {"id": "1", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice]}
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(json.dumps(answer).encode())

    def log_message(self, *_):
        pass


def serve(name):
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.name = name
    Thread(target=server.serve_forever, daemon=True).start()
    return f"http://127.0.0.1:{server.server_port}/v1"


first, second = serve("first"), serve("second")
litellm.cache = Cache(type="local")
options = {"model": "openai/m", "messages": [{"role": "user", "content": "Hi"}], "temperature": 0}
key = litellm.cache.get_cache_key(**options, api_base=first)
print("same key for another temperature:", key == litellm.cache.get_cache_key(**{**options, "temperature": 1}))
print("same key for another extra_body:", key == litellm.cache.get_cache_key(**options, extra_body={"min_p": 0.1}))
print("same key for another api_base:", key == litellm.cache.get_cache_key(**options, api_base=second))


def ask(base):
    try:
        answer = litellm.completion(**options, api_base=base, api_key="none", caching=True, max_retries=0)
        return answer.choices[0].message.content
    except ImportError as error:
        return type(error).__name__


print("first call:", ask(first))
print("second call, same server:", ask(first))
print("second call, another server:", ask(second))
print("requests sent:", sent.count("first"), "and", sent.count("second"))
END

diff -u "$dir/expected" "$dir/seen"
