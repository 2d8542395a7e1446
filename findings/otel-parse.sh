#!/usr/bin/env bash
# Versions: opentelemetry-instrumentation-openai-v2 2.4b0, opentelemetry-util-genai 1.1b0, opentelemetry-sdk 1.45.2,
#   openai 3.57.0, httpx 0.28.1
# Behaviour: OpenTelemetry's instrumentation of the OpenAI SDK creates a span for `chat.completions.create` and for the
#   `stream` helper. `chat.completions.parse`, the SDK's function for structured answers, and `responses.create` get no
#   span, so that their tokens are missing from totals based on traces.
# Output: spans: create 1, stream 1, parse 0, responses 0
# Guessed before: one span each.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m venv "$dir/venv"
"$dir/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check openai==3.57.0 httpx==0.28.1 \
    opentelemetry-sdk==1.45.2 opentelemetry-instrumentation-openai-v2==2.4b0 opentelemetry-util-genai==1.1b0

cat >"$dir/expected" <<'END'
create: ['chat m']
stream: ['chat m']
parse: []
responses: []
END

"$dir/venv/bin/python" - >"$dir/seen" <<'END'
import json
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import openai
from opentelemetry.instrumentation.openai_v2 import OpenAIInstrumentor
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from pydantic import BaseModel

TEXT = '{"city": "Paris"}'


def chat(kind, key, message):
    choice = {"index": 0, key: message, "finish_reason": "stop"}
    return {"id": "1", "object": kind, "created": 1, "model": "m", "choices": [choice]}


def response():
    part = {"type": "output_text", "text": TEXT, "annotations": []}
    message = {"type": "message", "id": "2", "role": "assistant", "status": "completed", "content": [part]}
    head = {"id": "1", "object": "response", "created_at": 1, "model": "m", "status": "completed"}
    return {**head, "output": [message], "parallel_tool_calls": True, "tool_choice": "auto", "tools": []}


class Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        message, kind = {"role": "assistant", "content": TEXT}, "application/json"
        if body.get("stream"):
            chunk = chat("chat.completion.chunk", "delta", message)
            data, kind = f"data: {json.dumps(chunk)}\n\ndata: [DONE]\n\n", "text/event-stream"
        elif self.path.endswith("/responses"):
            data = json.dumps(response())
        else:
            data = json.dumps(chat("chat.completion", "message", message))
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.end_headers()
        self.wfile.write(data.encode())

    def log_message(self, *_):
        pass


class Place(BaseModel):
    city: str


server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
Thread(target=server.serve_forever, daemon=True).start()
spans, provider = InMemorySpanExporter(), TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(spans))
OpenAIInstrumentor().instrument(tracer_provider=provider)
client = openai.OpenAI(base_url=f"http://127.0.0.1:{server.server_port}/v1", api_key="none")
chats = client.chat.completions
options = {"model": "m", "messages": [{"role": "user", "content": "Which city?"}]}


def stream():
    with chats.stream(**options) as pieces:
        return pieces.get_final_completion().choices[0].message.content


calls = {
    "create": lambda: chats.create(**options).choices[0].message.content,
    "stream": stream,
    "parse": lambda: chats.parse(**options, response_format=Place).choices[0].message.content,
    "responses": lambda: client.responses.create(model="m", input="Which city?").output_text,
}
for name, call in calls.items():
    spans.clear()
    assert call() == TEXT
    print(f"{name}: {[span.name for span in spans.get_finished_spans()]}")
END

diff -u "$dir/expected" "$dir/seen"
