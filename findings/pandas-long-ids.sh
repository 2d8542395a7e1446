#!/usr/bin/env bash
# Versions: pandas 3.1.1
# Behaviour: `read_json(lines=True)` converts a column of quoted custom_ids to numbers if all look like numbers. Ids of
#   20 digits do not fit 64 bits and become floats: two different ids become equal, and a join by id pairs wrong rows.
# Output: float64, 1 distinct id of 2; str, 2 distinct ids with dtype=False
# Guessed before: text that does not fit a 64-bit integer stays text.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m venv "$dir/venv"
"$dir/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check pandas==3.1.1

cat >"$dir/expected" <<'END'
read_json(lines=True): float64, distinct ids: 1
joined to the input: 4 rows of 2
read_json(lines=True, dtype=False): str, distinct ids: 2
END

"$dir/venv/bin/python" - "$dir" >"$dir/seen" <<'END'
import json
import sys
from pathlib import Path

import pandas as pd

ids = ["17654321000000000001", "17654321000000000002"]
questions, answers = Path(sys.argv[1], "questions.jsonl"), Path(sys.argv[1], "answers.jsonl")
questions.write_text("".join(json.dumps({"custom_id": each, "question": "Why?"}) + "\n" for each in ids))
answers.write_text("".join(json.dumps({"custom_id": each, "answer": "So."}) + "\n" for each in reversed(ids)))

read = pd.read_json(answers, lines=True)
print(f"read_json(lines=True): {read.custom_id.dtype}, distinct ids: {read.custom_id.nunique()}")
joined = pd.read_json(questions, lines=True).merge(read, on="custom_id")
print(f"joined to the input: {len(joined)} rows of {len(ids)}")
read = pd.read_json(answers, lines=True, dtype=False)
print(f"read_json(lines=True, dtype=False): {read.custom_id.dtype}, distinct ids: {read.custom_id.nunique()}")
END

diff -u "$dir/expected" "$dir/seen"
