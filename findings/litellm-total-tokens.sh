#!/usr/bin/env bash
# Versions: litellm 1.110.2, openai 3.57.0
# Behaviour: where a server's `usage` contains the two counts but not their sum, LiteLLM sets `total_tokens` to 0. Where
#   the counts have other names (`input_tokens`, `output_tokens`), all three are 0. In the first case the cost is right
#   nevertheless. The OpenAI SDK leaves the missing numbers None.
# Output: LiteLLM: 12 + 3 = 0, cost 15.0; SDK: 12 + 3 = None
# Guessed before: LiteLLM adds the two counts.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m venv "$dir/venv"
"$dir/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check litellm==1.110.2 openai==3.57.0
export LITELLM_LOCAL_MODEL_COST_MAP=True

cat >"$dir/expected" <<'END'
{"prompt_tokens": 12, "completion_tokens": 3}
  OpenAI SDK: 12 + 3 = None
  LiteLLM: 12 + 3 = 0, cost 15.0
{"input_tokens": 12, "output_tokens": 3}
  OpenAI SDK: None + None = None
  LiteLLM: 0 + 0 = 0, cost 0.0
END

"$dir/venv/bin/python" - >"$dir/seen" 2>"$dir/log" <<'END' || { cat "$dir/log" >&2; exit 1; }
import json
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import litellm
import openai


class Handler(BaseHTTPRequestHandler):
    """Answers with the usage that the message is."""

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        usage = json.loads(body["messages"][0]["content"])
        choice = {"index": 0, "message": {"role": "assistant", "content": "Yes."}, "finish_reason": "stop"}
        answer = {"id": "1", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice]}
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(json.dumps({**answer, "usage": usage}).encode())

    def log_message(self, *_):
        pass


server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
Thread(target=server.serve_forever, daemon=True).start()
base = f"http://127.0.0.1:{server.server_port}/v1"
client = openai.OpenAI(base_url=base, api_key="none")
prices = {"input_cost_per_token": 1, "output_cost_per_token": 1}


def sums(usage):
    return f"{usage.prompt_tokens} + {usage.completion_tokens} = {usage.total_tokens}"


for usage in ({"prompt_tokens": 12, "completion_tokens": 3}, {"input_tokens": 12, "output_tokens": 3}):
    text = json.dumps(usage)
    messages = [{"role": "user", "content": text}]
    print(text)
    print("  OpenAI SDK:", sums(client.chat.completions.create(model="m", messages=messages).usage))
    answer = litellm.completion(model="openai/m", messages=messages, api_base=base, api_key="none", **prices)
    print(f"  LiteLLM: {sums(answer.usage)}, cost {answer._hidden_params['response_cost']:.1f}")
END

diff -u "$dir/expected" "$dir/seen"
