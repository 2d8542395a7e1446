"""Payloads without calls, and the provider's own Batch API: within 24 hours, at half the price, with the same rows.

`render_batch_requests` takes the arguments of `create_chat_completions_batch` and gives the very bodies that it would
send; `stream_batch_requests` does so for any number of rows, `render_embeddings_requests` and
`stream_embeddings_requests` for texts. OpenAI, Azure, Groq, hosted_vllm, litellm_proxy, Mistral and xAI take batch
lines; other providers raise `NotImplementedError` from `render_payload_for_batch_request`. `register_provider` adds a
`Provider` of your own that implements it; each line is a `Payload`.

Large inputs are split at the provider's limits, and each model makes a file. Expired, cancelled, missing, contradictory
and unparsable answers are error rows. `create_chat_completions_batch(chats, batch_job=True)` does all of it in one call
(with `checkpoint=` a rerun goes on with the job after Ctrl-C, or sends its failed rows again);
`retrieve_batch_job("batch_…")` finds a job without its state file.
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

print(estimate_batch(chats, model="gpt-4o-mini"))  # rows, tokens, cost and time by each lane, caveats

job = submit_batch_job(chats, model="gpt-4o-mini", state="job.json")  # the same call never submits twice
job = BatchJob.load("job.json")  # from any process, any time later
results = job.wait(poll=0.1).results()  # BatchResults in the order of the input; nothing is downloaded before
if results.failed:
    results = job.resubmit_failed().wait().results()  # or job.run_failed_live()
print(results.summary())
