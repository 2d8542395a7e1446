#!/usr/bin/env bash
# Versions: litellm 1.110.2, openai 3.57.0
# Behaviour: LiteLLM reports an unknown finish reason as "stop", the word for a complete answer, even where the server
#   said that generation broke off. "abort" and "error" become "stop" too, but raise when the answer is streamed. A
#   stream that ends without a finish reason is no error for the OpenAI SDK; LiteLLM raises MidStreamFallbackError,
#   although no fallbacks are configured, and reports the same answer without streaming as "stop".
# Output: insufficient_system_resource: stop; abort: stop, streamed MidStreamFallbackError; the rest is below
# Guessed before: unknown words are passed on unchanged, streamed or not; a stream without one is reported as "stop".
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m venv "$dir/venv"
"$dir/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check litellm==1.110.2 openai==3.57.0
export LITELLM_LOCAL_MODEL_COST_MAP=True

cat >"$dir/expected" <<'END'
insufficient_system_resource: stop; streamed: stop
abort: stop; streamed: MidStreamFallbackError
error: stop; streamed: MidStreamFallbackError
None: stop; streamed: MidStreamFallbackError
None, OpenAI SDK: None; streamed: None
END

"$dir/venv/bin/python" - >"$dir/seen" 2>"$dir/log" <<'END' || { cat "$dir/log" >&2; exit 1; }
import json
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import litellm
import openai


class Handler(BaseHTTPRequestHandler):
    """Ends an answer with the finish reason that the model's name holds."""

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        reason = None if body["model"] == "None" else body["model"]
        head = {"id": "chat-1", "created": 1, "model": body["model"]}
        if body.get("stream"):
            chunks = [{"delta": {"role": "assistant", "content": "Half an"}, "finish_reason": None}]
            chunks += [{"delta": {}, "finish_reason": reason}] if reason else []
            lines = [{**head, "object": "chat.completion.chunk", "choices": [{"index": 0, **each}]} for each in chunks]
            data = "".join(f"data: {json.dumps(each)}\n\n" for each in lines)
            kind = "text/event-stream"
        else:
            message = {"role": "assistant", "content": "Half an"}
            choices = [{"index": 0, "message": message, "finish_reason": reason}]
            data, kind = json.dumps({**head, "object": "chat.completion", "choices": choices}), "application/json"
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.end_headers()
        self.wfile.write(data.encode())

    def log_message(self, *_):
        pass


server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
Thread(target=server.serve_forever, daemon=True).start()
litellm.suppress_debug_info = True
options = {"messages": [{"role": "user", "content": "Hello"}]}
base = f"http://127.0.0.1:{server.server_port}/v1"


def reason(create, **stream):
    try:
        answer = create(**options, **stream)
        return (list(answer)[-1] if stream else answer).choices[0].finish_reason
    except Exception as error:
        return type(error).__name__


for word in ("insufficient_system_resource", "abort", "error", "None"):

    def create(word=word, **each):
        return litellm.completion(model=f"openai/{word}", api_base=base, api_key="none", max_retries=0, **each)

    print(f"{word}: {reason(create)}; streamed: {reason(create, stream=True)}")

client = openai.OpenAI(base_url=base, api_key="none", max_retries=0)


def create(**each):
    return client.chat.completions.create(model="None", **each)


print(f"None, OpenAI SDK: {reason(create)}; streamed: {reason(create, stream=True)}")
END

diff -u "$dir/expected" "$dir/seen"
