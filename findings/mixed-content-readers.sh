#!/usr/bin/env bash
# Versions: polars 2.1.0, duckdb 2.0.1
# Behaviour: in one list of chats, `content` may be text in one chat and a list of parts in the next. None of these
#   readers raises, and each changes the chats in another way. polars reads the parts from a file as JSON text, but
#   turns the whole second chat into null when the chats are Python objects. duckdb adds quotation marks to the text of
#   the first chat.
# Output: 'Hello' and '[{"type": "text", ...}]' / 'Hello' and None / '"Hello"' and '[{"type":"text",...}]'
# Guessed before: polars raises when it reads the file (no guess was made about Python objects); duckdb returns a
#   plain string as it was.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m venv "$dir/venv"
"$dir/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check polars==2.1.0 duckdb==2.0.1

cat >"$dir/expected" <<'END'
polars.read_ndjson:
[{'role': 'user', 'content': 'Hello'}]
[{'role': 'user', 'content': '[{"type": "text", "text": "Look"}]'}]
polars.DataFrame:
[{'role': 'user', 'content': 'Hello'}]
None
duckdb read_json:
[{'role': 'user', 'content': '"Hello"'}]
[{'role': 'user', 'content': '[{"type":"text","text":"Look"}]'}]
END

"$dir/venv/bin/python" - "$dir" >"$dir/seen" <<'END'
import json
import sys
from pathlib import Path

import duckdb
import polars as pl

chats = [
    {"messages": [{"role": "user", "content": "Hello"}]},
    {"messages": [{"role": "user", "content": [{"type": "text", "text": "Look"}]}]},
]
path = Path(sys.argv[1], "chats.jsonl")
path.write_text("".join(json.dumps(chat) + "\n" for chat in chats))

print("polars.read_ndjson:", *pl.read_ndjson(path)["messages"].to_list(), sep="\n")
print("polars.DataFrame:", *pl.DataFrame(chats)["messages"].to_list(), sep="\n")
rows = duckdb.execute("select messages from read_json(?)", [str(path)]).fetchall()
print("duckdb read_json:", *(messages for (messages,) in rows), sep="\n")
END

diff -u "$dir/expected" "$dir/seen"
