"""Ask again for answers that do not fit, that a check of yours refuses, or that were cut off.

`reask=2` asks up to twice more, in the same conversation: with pydantic's errors where the answer does not fit
`response_format`, with what `validate` returned, or with twice the tokens where it was cut off. `row["asks"]` says how
many asks there were; tokens, cost and attempts are those of all. `max_cost`, `deadline` and `fallbacks` hold for each.
With `lane="job"` a further part of the batch job asks again, at its price; with `lane="cheapest"` live requests do.
What `submit_batch_job` submits is asked once; `job.run_failed_live(reask=2)` asks again for its failed rows.
"""

from llmbatch import Row, create_chat_completions_batch


def validate(row: Row) -> str | None:
    """What is wrong with an answer, None where nothing is."""
    text = row["choices"][0]["message"]["content"] or ""
    return None if len(text) < 300 else "Say it in fewer words."


chats = [[{"role": "user", "content": f"Name a word that begins with {letter}."}] for letter in "aab"]
results = create_chat_completions_batch(chats, reask=2, validate=validate, dedupe=True)  # the very same is sent once
print([row.get("asks") for row in results], [row.get("same_as") for row in results])
