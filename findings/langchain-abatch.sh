#!/usr/bin/env bash
# Versions: langchain-core 1.8.3, langchain-openai 1.7.4, openai 3.57.0
# Behaviour: when one row of `abatch` fails, the call raises at once, but the other rows are not cancelled: all of them
#   are still sent (and paid for) after the exception, and their answers are lost. `batch`, the synchronous version,
#   cancels the rows that have not begun.
# Output: of 8 rows, the first of which fails: abatch sends all 8, batch does not
# Guessed before: a row not yet sent when abatch raises is never sent.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m venv "$dir/venv"
"$dir/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check \
    langchain-core==1.8.3 langchain-openai==1.7.4 openai==3.57.0

cat >"$dir/expected" <<'END'
abatch: BadRequestError, all 8 had been sent: False; later: True
batch: BadRequestError, all 8 had been sent: False; later: False
END

"$dir/venv/bin/python" - >"$dir/seen" <<'END'
import asyncio
import json
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import openai
from langchain_openai import ChatOpenAI

sent = []


class Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        text = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["messages"][0]["content"]
        sent.append(text)
        if text != "row 0":
            time.sleep(0.1)
        choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
        answer = {"id": "1", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice]}
        self.send_response(400 if text == "row 0" else 200)
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(json.dumps({"error": {"message": "no"}} if text == "row 0" else answer).encode())

    def log_message(self, *_):
        pass


server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
Thread(target=server.serve_forever, daemon=True).start()
rows, options = [f"row {number}" for number in range(8)], {"max_concurrency": 2}
model = ChatOpenAI(model="m", base_url=f"http://127.0.0.1:{server.server_port}/v1", api_key="none", max_retries=0)


def outcome(error):
    assert isinstance(error, openai.BadRequestError)
    return f"BadRequestError, all 8 had been sent: {len(sent) == 8}"


async def ask():
    try:
        await model.abatch(rows, config=options)
    except openai.OpenAIError as error:
        first = outcome(error)
    for _ in range(100):  # The caller goes on with other work.
        await asyncio.sleep(0.1)
        if len(sent) == 8:
            break
    return f"{first}; later: {len(sent) == 8}"


print("abatch:", asyncio.run(ask()))
sent.clear()
try:
    model.batch(rows, config=options)
except openai.OpenAIError as error:
    first = outcome(error)
time.sleep(2)
print(f"batch: {first}; later: {len(sent) == 8}")
END

diff -u "$dir/expected" "$dir/seen"
