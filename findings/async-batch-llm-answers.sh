#!/usr/bin/env bash
# Versions: async-batch-llm 0.28.0, openai 3.57.0
# Behaviour: of three answers that are empty or truncated, async-batch-llm fails one. `content: null` is a failure that
#   is not retried; `content: ""` is a success, and so is a text truncated at max_tokens. By default the results are in
#   completion order, not in the order of the prompts.
# Output: cut: success; empty: success ''; null: EmptyResponseError after 1 request; the slow first prompt comes last
# Guessed before: the truncated answer fails; both empty answers fail and are retried; results are in prompt order.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m venv "$dir/venv"
"$dir/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check async-batch-llm==0.28.0 openai==3.57.0

cat >"$dir/expected" <<'END'
cut: success 'Half an', requests: 1
empty: success '', requests: 1
null: EmptyResponseError, requests: 1
["slow", "quick"]: ['said quick', 'said slow']
END

"$dir/venv/bin/python" - >"$dir/seen" 2>"$dir/log" <<'END' || { cat "$dir/log" >&2; exit 1; }
import asyncio
import json
import logging
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Event, Thread

from async_batch_llm import llm, process_prompts

sent, quick = [], Event()
logging.disable()


class Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        text = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["messages"][-1]["content"]
        sent.append(text)
        if text == "slow":
            quick.wait(20)
        content = {"cut": "Half an", "empty": "", "null": None}.get(text, f"said {text}")
        reason = "length" if text == "cut" else "stop"
        choice = {"index": 0, "message": {"role": "assistant", "content": content}, "finish_reason": reason}
        answer = {"id": "1", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice]}
        data = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)
        if text == "quick":
            Thread(target=lambda: (Event().wait(1), quick.set())).start()

    def log_message(self, *_):
        pass


server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
Thread(target=server.serve_forever, daemon=True).start()
base = f"http://127.0.0.1:{server.server_port}/v1"


async def ask(*prompts):
    strategy = llm("openai-compatible:m", base_url=base, api_key="none")
    return (await process_prompts(strategy, list(prompts), concurrency=2)).results


for prompt in ("cut", "empty", "null"):
    (result,) = asyncio.run(ask(prompt))
    outcome = f"success {result.output!r}" if result.success else str(result.error).partition(":")[0]
    print(f"{prompt}: {outcome}, requests: {sent.count(prompt)}")
print('["slow", "quick"]:', [result.output for result in asyncio.run(ask("slow", "quick"))])
END

diff -u "$dir/expected" "$dir/seen"
