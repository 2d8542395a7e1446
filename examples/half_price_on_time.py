"""Half the price, on time: a batch job for as long as the deadline allows, then live calls for what is left.

A provider's batch job costs half and may take a day. `lane="cheapest"` starts a batch job. Shortly before the deadline
it cancels the job and sends the remaining rows live. After a crash the same call continues with the job that it left.
"""

from llmbatch import create_chat_completions_batch, estimate_batch

questions = ["What is the capital of France?", "Who invented the telephone?", "What is the speed of light?"]

# What each processing mode would cost and how long it would take; nothing is sent.
print(estimate_batch(questions, "gpt-4o-mini"))

# The deadline is in seconds from now. max_cost covers the job and the live calls together.
results = create_chat_completions_batch(
    questions, "gpt-4o-mini", lane="cheapest", deadline=6 * 3600, checkpoint="night.jsonl", max_cost=5
)
print(results.summary())

# Each row says how it was answered ("job" or "live") and how much cheaper than a live call it was.
# If the provider still answers a row of a cancelled job you pay twice, and the row has `paid_twice`.
for row in results:
    print(row["lane"], row.get("saved"), row.get("paid_twice"))
