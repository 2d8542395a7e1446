#!/usr/bin/env bash
# Versions: litellm 1.110.2, openai 3.57.0
# Behaviour: some servers return an answer's `content` as a list of text parts. The OpenAI SDK keeps the list. LiteLLM's
#   openai/ route turns the good answer into an InternalServerError with status 500, which callers retry; its mistral/
#   route keeps the last part and drops the text before it.
# Output: SDK: 2 parts; openai/: InternalServerError 500; mistral/: 'It is Paris.' without 'France is asked for. '
# Guessed before: openai/ returns the list as the SDK does; mistral/ joins the texts.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m venv "$dir/venv"
"$dir/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check litellm==1.110.2 openai==3.57.0
export LITELLM_LOCAL_MODEL_COST_MAP=True

cat >"$dir/expected" <<'END'
OpenAI SDK: ['France is asked for. ', 'It is Paris.']
openai/: InternalServerError 500
mistral/: 'It is Paris.'
END

"$dir/venv/bin/python" - >"$dir/seen" 2>"$dir/log" <<'END' || { cat "$dir/log" >&2; exit 1; }
import json
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import litellm
import openai


class Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        content = [{"type": "text", "text": text} for text in ("France is asked for. ", "It is Paris.")]
        choice = {"index": 0, "message": {"role": "assistant", "content": content}, "finish_reason": "stop"}
        answer = {"id": "1", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice]}
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(json.dumps(answer).encode())

    def log_message(self, *_):
        pass


litellm.suppress_debug_info = True
server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
Thread(target=server.serve_forever, daemon=True).start()
base = f"http://127.0.0.1:{server.server_port}/v1"
messages = [{"role": "user", "content": "What is the capital of France?"}]

client = openai.OpenAI(base_url=base, api_key="none")
answer = client.chat.completions.create(model="m", messages=messages)
print("OpenAI SDK:", [part["text"] for part in answer.choices[0].message.content])
for route in ("openai", "mistral"):
    try:
        answer = litellm.completion(model=f"{route}/m", messages=messages, api_base=base, api_key="none", max_retries=0)
        print(f"{route}/:", repr(answer.choices[0].message.content))
    except openai.APIStatusError as error:
        print(f"{route}/:", type(error).__name__, error.status_code)
END

diff -u "$dir/expected" "$dir/seen"
