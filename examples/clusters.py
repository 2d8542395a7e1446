"""Tables larger than one machine: llmbatch inside each worker of Ray Data, Dask or Spark.

Each worker gets an equal share of the account's limits. `max_cost` works with Ray's actors or in one process; Spark and
Dask copy the object for each partition, so there it raises. Instead of a template you can pass a function of a row that
returns its request. Errors, tokens and cost are columns. Pass `checkpoint=`: without one, the rows of a killed worker
are sent and paid again.

When to use what: one process sends 100 to 300 requests a second, more than most accounts allow. Use Ray or Spark when
the table is already there, or for your own GPU servers. Use a batch job when the answers may take hours. Otherwise use
`create_chat_completions_batch`, with `processes=` if one core is not enough.

    python clusters.py reviews/ answers/        # Parquet in, Parquet out, on Ray: pip install "llmbatch[ray]"
"""

import sys
from typing import Any

from llmbatch import complete_table
from llmbatch.integrations.ray import Completions, complete_dataset


def on_ray(source: str, target: str) -> None:
    """Complete a dataset with four actors that share the account's limits."""
    import ray

    answers = complete_dataset(
        ray.data.read_parquet(source),
        "Sentiment of: {text}",
        "gpt-4o-mini",
        actors=4,
        requests_per_minute=6000,
        max_cost=20,
        checkpoint="/shared/answers",
    )
    answers.write_parquet(target)


def on_dask(frame: Any) -> Any:
    """Add a column of answers to a Dask DataFrame, lazily."""
    add_answers = Completions("Sentiment of: {text}", "gpt-4o-mini", workers=4, requests_per_minute=6000)
    return frame.map_partitions(add_answers, meta=add_answers.meta(frame._meta))


def on_spark(frame: Any, schema: Any) -> Any:
    """Add a column of answers to a Spark DataFrame, lazily; `schema` names all its columns."""
    add_answers = Completions("Sentiment of: {text}", "gpt-4o-mini", workers=4, requests_per_minute=6000)
    return frame.mapInPandas(lambda frames: map(add_answers, frames), schema)


def on_partitions(frame: Any) -> Any:
    """Complete a Dask DataFrame with `complete_table`, which has no shared limits; other libraries in the same way.

    Spark: `frame.mapInPandas(lambda frames: (complete_table(part, template) for part in frames), schema)`. Ray:
    `dataset.map_batches(complete_table, fn_args=(template,), batch_format="pandas")`. Hugging Face's `datasets`:
    `dataset.map(lambda rows: complete_table(rows, template), batched=True)`.
    """
    return frame.map_partitions(
        complete_table, "Sentiment of: {text}", meta=frame._meta.assign(answer="").astype("string")
    )


if __name__ == "__main__":
    on_ray(*sys.argv[1:])
