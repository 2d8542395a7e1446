"""Re-ask: try again when an answer fails validation, fails a check of yours, or was cut off.

`reask=2` allows two re-asks per row. A re-ask continues the conversation with what was wrong: pydantic's errors for an
answer that does not match `response_format`, or the text that `validate` returned. A cut-off answer is requested again
with twice the tokens. `row["asks"]` counts the asks; tokens, cost and attempts are totals over all of them. `max_cost`,
`deadline` and `fallbacks` apply to each. With `lane="job"` re-asks run in a further input file of the batch job, at its
price; with `lane="cheapest"` they run live. `submit_batch_job` never re-asks; `job.run_failed_live(reask=2)` does.
"""

from llmbatch import Row, create_chat_completions_batch


def validate(row: Row) -> str | None:
    """Return what is wrong with an answer, or None."""
    text = row["choices"][0]["message"]["content"] or ""
    return None if len(text) < 300 else "Say it in fewer words."


chats = [[{"role": "user", "content": f"Name a word that begins with {letter}."}] for letter in "aab"]
results = create_chat_completions_batch(
    chats, reask=2, validate=validate, dedupe=True
)  # identical requests are sent once
print([row.get("asks") for row in results], [row.get("same_as") for row in results])
