"""Payloads without calls, and the provider's Batch API: within 24 hours, at half the price, with the same rows.

`render_batch_requests` takes the arguments of `create_chat_completions_batch` and returns the request bodies that it
would send. `stream_batch_requests` does so for any number of requests, `render_embeddings_requests` and
`stream_embeddings_requests` for texts. OpenAI, Azure, Groq, hosted_vllm, litellm_proxy, Mistral and xAI take batch
lines; other providers raise `NotImplementedError` from `render_payload_for_batch_request`. Use `register_provider` with
a `Provider` subclass to add one; each line is a `Payload`.

Large inputs are split into several input files at the provider's limits, one set per model. Expired, cancelled,
missing, contradictory and unparsable answers become error rows. `create_chat_completions_batch(chats, lane="job")` does
all of this in one call; with `checkpoint=` a rerun continues the job. `retrieve_batch_job("batch_…")` finds a job
without its state file.
"""

from llmbatch import (
    BatchJob,
    estimate_batch,
    read_batch_file,
    render_batch_requests,
    stream_batch_requests,
    submit_batch_job,
    write_batch_file,
)

chats = [[{"role": "user", "content": f"Name a word that begins with {letter}."}] for letter in "abc"]

payloads = render_batch_requests(chats, model="gpt-4o-mini", seed=7)
assert payloads[0]["body"]["seed"] == 7

write_batch_file("batch.jsonl", stream_batch_requests((chat for chat in chats), model="gpt-4o-mini"))
assert len(list(read_batch_file("batch.jsonl"))) == len(chats)

print(estimate_batch(chats, model="gpt-4o-mini"))  # rows, tokens, cost and time for each processing mode

job = submit_batch_job(chats, model="gpt-4o-mini", state="job.json")  # the same call never submits twice
job = BatchJob.load("job.json")  # later, in any process
results = job.wait(poll=0.1).results()  # BatchResults in the order of the input
if results.failed:
    results = job.resubmit_failed().wait().results()  # or job.run_failed_live()
print(results.summary())
