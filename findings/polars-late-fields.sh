#!/usr/bin/env bash
# Versions: polars 2.1.0
# Behaviour: `read_ndjson` infers the schema from the first 100 lines. In the output file of a batch job, a field of
#   `usage` that first appears in line 101 is dropped silently, while an `error` that was null in those 100 lines
#   raises.
# Output: cached_tokens is dropped; ComputeError; cached_tokens is 7 with infer_schema_length=None
# Guessed before: both raise, since neither fits the inferred schema.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m venv "$dir/venv"
"$dir/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check polars==2.1.0

cat >"$dir/expected" <<'END'
a late field of usage: {'prompt_tokens': 9}
a late error: ComputeError
a late field of usage, whole file read first: {'prompt_tokens': 9, 'prompt_tokens_details': {'cached_tokens': 7}}
END

"$dir/venv/bin/python" - "$dir" >"$dir/seen" <<'END'
import json
import sys
from pathlib import Path

import polars as pl


def line(number, usage, error=None):
    body = {"choices": [{"message": {"content": "yes"}}], "usage": usage}
    return {"custom_id": f"row-{number}", "response": {"status_code": 200, "body": body}, "error": error}


def write(name, last):
    path = Path(sys.argv[1], name)
    lines = [line(number, {"prompt_tokens": 9}) for number in range(100)] + [last]
    path.write_text("".join(json.dumps(each) + "\n" for each in lines))
    return path


usages = write("usage.jsonl", line(100, {"prompt_tokens": 9, "prompt_tokens_details": {"cached_tokens": 7}}))
errors = write("error.jsonl", line(100, {"prompt_tokens": 9}, {"code": "server_error", "message": "try later"}))


def last_usage(frame):
    return frame["response"].to_list()[-1]["body"]["usage"]


print("a late field of usage:", last_usage(pl.read_ndjson(usages)))
try:
    pl.read_ndjson(errors)
    print("a late error: read")
except pl.exceptions.PolarsError as error:
    print("a late error:", type(error).__name__)
whole = pl.read_ndjson(usages, infer_schema_length=None)
print("a late field of usage, whole file read first:", last_usage(whole))
END

diff -u "$dir/expected" "$dir/seen"
