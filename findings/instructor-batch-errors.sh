#!/usr/bin/env bash
# Versions: instructor 1.17.0, openai 3.3.0, pydantic 2.14.4
# Behaviour: instructor's BatchProcessor parses a batch job's output lines into results or errors. A request that the
#   provider rejected (status 400 with a message), one that expired (`error` with code and message), a refusal and an
#   answer truncated at max_tokens all become the same error: "extraction_error", "Unknown error". The reason, which
#   decides whether to send the request again, is only in `raw_data`.
# Output: four times BatchError extraction_error 'Unknown error'
# Guessed before: for a rejected request, error_message contains the provider's message.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m venv "$dir/venv"
"$dir/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check \
    instructor==1.17.0 openai==3.3.0 pydantic==2.14.4
export OPENAI_API_KEY=none

cat >"$dir/expected" <<'END'
good: BatchSuccess {'city': 'Paris'}
refused request: BatchError extraction_error 'Unknown error'
out of time: BatchError extraction_error 'Unknown error'
refusal: BatchError extraction_error 'Unknown error'
cut off: BatchError extraction_error 'Unknown error'
END

"$dir/venv/bin/python" - >"$dir/seen" <<'END'
import json

from instructor.batch import BatchProcessor
from pydantic import BaseModel


class Place(BaseModel):
    city: str


def line(custom_id, message=None, finish_reason="stop", **changes):
    choice = {"index": 0, "message": {"role": "assistant", **(message or {})}, "finish_reason": finish_reason}
    body = {"id": "1", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice]}
    response = {"status_code": 200, "request_id": "2", "body": body}
    return {"id": "3", "custom_id": custom_id, "response": response, "error": None, **changes}


refused = {"status_code": 400, "request_id": "2", "body": {"error": {"message": "prompt too long"}}}
lines = [
    line("good", {"content": '{"city": "Paris"}'}),
    line("refused request", response=refused),
    line("out of time", response=None, error={"code": "batch_expired", "message": "not run in time"}),
    line("refusal", {"content": None, "refusal": "I will not say."}),
    line("cut off", {"content": '{"city": "Par'}, "length"),
]
processor = BatchProcessor("openai/m", Place)
for result in processor.parse_results("\n".join(map(json.dumps, lines))):
    if result.success:
        print(f"{result.custom_id}: {type(result).__name__.partition('[')[0]} {result.result.model_dump()}")
    else:
        print(f"{result.custom_id}: {type(result).__name__} {result.error_type} {result.error_message!r}")
END

diff -u "$dir/expected" "$dir/seen"
