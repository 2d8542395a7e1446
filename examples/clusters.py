"""Tables past one machine: the same engine inside each worker of Ray Data, Dask or Spark.

Limits and budget are the account's: each worker gets an equal share. `max_cost` is for Ray's actors or one process:
Spark and Dask's processes copy the object for each partition, and are refused it. A function of a row that gives its
request may stand in the place of the template. Errors, tokens and cost are columns. One process sends some 100 to 300
requests a second, more than most accounts allow, so take Ray when the *table* is already there or too large for one
machine, or for your own GPU servers; take a batch job when the answer may take hours and half the price matters; else
`create_chat_completions_batch`, with `processes=` where one core is too few.

    python clusters.py reviews/ answers/        # Parquet in, Parquet out, on Ray: pip install "llmbatch[ray]"
"""

import sys
from typing import Any

from llmbatch.integrations.ray import Completions, complete_dataset


def on_ray(source: str, target: str) -> None:
    """Answer a dataset with four actors that share the account's limits."""
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
    """A Dask DataFrame with a column of answers, lazily."""
    add_answers = Completions("Sentiment of: {text}", "gpt-4o-mini", workers=4, requests_per_minute=6000)
    return frame.map_partitions(add_answers, meta=add_answers.meta(frame._meta))


def on_spark(frame: Any, schema: Any) -> Any:
    """A Spark DataFrame with a column of answers, lazily; `schema` names all its columns."""
    add_answers = Completions("Sentiment of: {text}", "gpt-4o-mini", workers=4, requests_per_minute=6000)
    return frame.mapInPandas(lambda frames: map(add_answers, frames), schema)


if __name__ == "__main__":
    on_ray(*sys.argv[1:])
