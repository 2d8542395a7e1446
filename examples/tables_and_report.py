"""Tables in and out, and a report that people look at.

Tables of pandas, polars, Arrow, and what else narwhals takes; what comes back is of the same make (`pip install
"llmbatch[pandas]"`, `[polars]`, or `[frames]` for the others). The index is kept, failed rows are missing, and
columns or values that are not there are refused before anything is sent. In the place of a template may stand a
function of a row that gives its request.

`results.to_pandas()`, `.to_polars()`, `.to_arrow()`, `.to_parquet(path)` and `.to_csv(path)` give the same columns
for any batch, with the fields of a pydantic `response_format`; an answer that does not fit it is in `text` beside
its `error`. `.to_jsonl(path)` keeps the whole rows, as `llmbatch run` does. A dataset of Hugging Face goes in as it
is, when its rows are requests (`dataset.select_columns(["messages"])`), and comes out as
`datasets.Dataset(results.to_arrow())`.

The report (`pip install "llmbatch[report]"`) is one HTML file, without network, light and dark: rows over time,
latency, tokens and cost by model, failures with examples, cut-off answers, the slowest and the dearest rows, and up
to 500 rows to search. It has no prompts unless they are given.
"""

import pandas as pd

from llmbatch import create_chat_completions_batch
from llmbatch.integrations.frames import complete_column, complete_frame

df = pd.DataFrame({"title": ["Dune", "Emma"], "year": [1965, 1815]}, index=["a", "b"])
df["summary"] = complete_column(df, "Summarise {title} ({year}) in a sentence.", model="gpt-4o-mini", max_tokens=60)
details = complete_frame(df, "Who wrote {title}?", model="gpt-4o-mini", checkpoint="authors.jsonl")
print(df.join(details[["text", "error", "total_tokens", "cost"]]))

results = create_chat_completions_batch([f"Who wrote {title}?" for title in df["title"]])
results.to_parquet("answers.parquet")
results.report("run.html")
