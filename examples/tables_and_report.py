"""Tables in and out, and an HTML report.

`complete_table` returns the same table with columns of answers: one for each field of a pydantic class, typed, or
`answer`. With a path as `output` the table is written, and a rerun resumes. `details=` adds errors, cost and the like.

`complete_column` and `complete_frame` return the answers alone, as a column or as a table of all details. They take
pandas, polars and Arrow tables, and others that narwhals supports (`pip install "llmbatch[pandas]"`, `[polars]`, or
`[frames]`), and return the same kind. The index is kept. Failed rows have missing values. Missing columns or values
raise before anything is sent. Instead of a template you can pass a function of a row that returns its request.

`results.to_pandas()`, `.to_polars()`, `.to_arrow()`, `.to_parquet(path)` and `.to_csv(path)` have the same columns for
any batch, including the fields of a pydantic `response_format`. An answer that does not match is in `text`, next to its
`error`. `.to_jsonl(path)` keeps whole rows, as `llmbatch run` does. A Hugging Face dataset whose rows are requests can
be passed as it is (`dataset.select_columns(["messages"])`); `results.to_dataset()` is the way back.

The report (`pip install "llmbatch[report]"`) is one HTML file that needs no network: rows over time, latency, tokens
and cost by model, failures with examples, cut-off answers, the slowest and the most expensive rows, and a search over
up to 500 rows. It contains prompts only if you pass `prompts=`.
"""

import pandas as pd

from llmbatch import complete_table, create_chat_completions_batch
from llmbatch.integrations.frames import complete_column, complete_frame

df = pd.DataFrame({"title": ["Dune", "Emma"], "year": [1965, 1815]}, index=["a", "b"])
print(complete_table(df, "Who wrote {title}?", "gpt-4o-mini", output="authors.parquet", details=["error", "cost"]))
df.to_csv("books.csv")
done = complete_table("books.csv", "Who wrote {title}?", "gpt-4o-mini", output="authors.csv")
print(done.summary(), pd.read_csv(done))
df["summary"] = complete_column(df, "Summarise {title} ({year}) in a sentence.", model="gpt-4o-mini", max_tokens=60)
details = complete_frame(df, "Who wrote {title}?", model="gpt-4o-mini", checkpoint="authors.jsonl")
print(df.join(details[["text", "error", "total_tokens", "cost"]]))

results = create_chat_completions_batch([f"Who wrote {title}?" for title in df["title"]])
results.to_parquet("answers.parquet")
results.report("run.html")
