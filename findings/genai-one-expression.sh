#!/usr/bin/env bash
# Versions: google-genai 3.6.1; for comparison openai 3.57.0
# Behaviour: in Google's SDK, a client without a reference is closed before its own request is sent:
#   `Client(...).models.generate_content(...)` as one expression sends nothing and raises RuntimeError. With the client
#   in a variable the same request is answered. The OpenAI SDK's client works in one expression.
# Output: one expression: RuntimeError, 0 requests; a variable: 1 request; OpenAI SDK: 1 request
# Guessed before: all three send one request.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m venv "$dir/venv"
"$dir/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check google-genai==3.6.1 openai==3.57.0

cat >"$dir/expected" <<'END'
google-genai, one expression: RuntimeError, requests: 0
google-genai, a variable: Bonjour., requests: 1
openai, one expression: Bonjour., requests: 1
END

"$dir/venv/bin/python" - >"$dir/seen" 2>"$dir/log" <<'END' || { cat "$dir/log" >&2; exit 1; }
import json
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import openai
from google import genai

sent = []


class Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        sent.append(self.path)
        if self.path.endswith(":generateContent"):
            content = {"role": "model", "parts": [{"text": "Bonjour."}]}
            answer = {"candidates": [{"index": 0, "content": content, "finishReason": "STOP"}]}
        else:
            choice = {"index": 0, "message": {"role": "assistant", "content": "Bonjour."}, "finish_reason": "stop"}
            answer = {"id": "1", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice]}
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(json.dumps(answer).encode())

    def log_message(self, *_):
        pass


server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
Thread(target=server.serve_forever, daemon=True).start()
base = f"http://127.0.0.1:{server.server_port}"
options = {"api_key": "none", "http_options": {"base_url": base}}
question = {"model": "gemini-m", "contents": "Greet me."}


def one_expression():
    return genai.Client(**options).models.generate_content(**question).text


def variable():
    client = genai.Client(**options)
    return client.models.generate_content(**question).text


def other():
    messages = [{"role": "user", "content": "Greet me."}]
    chats = openai.OpenAI(base_url=f"{base}/v1", api_key="none").chat.completions
    return chats.create(model="m", messages=messages).choices[0].message.content


calls = {"google-genai, one expression": one_expression, "google-genai, a variable": variable}
for name, call in {**calls, "openai, one expression": other}.items():
    sent.clear()
    try:
        outcome = call()
    except RuntimeError as error:
        outcome = type(error).__name__
    print(f"{name}: {outcome}, requests: {len(sent)}")
END

diff -u "$dir/expected" "$dir/seen"
