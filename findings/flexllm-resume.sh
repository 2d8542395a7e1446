#!/usr/bin/env bash
# Versions: flexllm 0.17.10
# Behaviour: `chat_batch(output_jsonl=…)` of flexllm resumes from its file after checking that the messages are equal.
#   The file contains neither the model nor the parameters: a rerun with another model and temperature sends nothing
#   and returns the first model's answers.
# Output: second run, other model and temperature: 0 requests, the answers of 'small'; other messages: ValueError
# Guessed before: requests with another model or temperature are sent again.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m venv "$dir/venv"
"$dir/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check flexllm==0.17.10

cat >"$dir/expected" <<'END'
small, 0.1: ['said by small at 0.1', 'said by small at 0.1'], requests: 2
large, 0.9: ['said by small at 0.1', 'said by small at 0.1'], requests: 0
other messages: ValueError
END

"$dir/venv/bin/python" - "$dir" >"$dir/seen" 2>"$dir/log" <<'END' || { cat "$dir/log" >&2; exit 1; }
import asyncio
import json
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

from flexllm import LLMClient

sent = []


class Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        sent.append(body)
        message = {"role": "assistant", "content": f"said by {body['model']} at {body['temperature']}"}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        answer = {"id": "1", "object": "chat.completion", "created": 1, "model": body["model"], "choices": [choice]}
        data = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_):
        pass


server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
Thread(target=server.serve_forever, daemon=True).start()
base, path = f"http://127.0.0.1:{server.server_port}/v1", f"{sys.argv[1]}/answers.jsonl"


async def ask(model, temperature, texts):
    sent.clear()
    chats = [[{"role": "user", "content": text}] for text in texts]
    async with LLMClient(base_url=base, model=model, api_key="none") as client:
        answers = await client.chat_batch(
            chats, temperature=temperature, output_jsonl=path, show_progress=False
        )
        return [answer.content for answer in answers]


for model, temperature in (("small", 0.1), ("large", 0.9)):
    answers = asyncio.run(ask(model, temperature, ["Hello", "Goodbye"]))
    print(f"{model}, {temperature}: {answers}, requests: {len(sent)}")
try:
    print("other messages:", asyncio.run(ask("small", 0.1, ["Good night", "Goodbye"])))
except ValueError as error:
    print("other messages:", type(error).__name__)
END

diff -u "$dir/expected" "$dir/seen"
