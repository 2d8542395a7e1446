"""Past one core: LiteLLM's part of the calls in child processes.

LiteLLM costs some 3 ms of CPU a call, so one process sends 100 to 300 rows a second. With `processes=4` the calls
are built, sent, parsed and priced in four children; order, limits, budget, retries, checkpoint, callbacks and
Ctrl-C stay in one place, and rows are the same. A child that dies loses no row.

Children begin beside the first rows (5 s each to import LiteLLM), are kept for the next batch, and end after a
minute without work or with the process; the script that starts them needs no main guard. Streams, and calls with
LiteLLM callbacks, a `client=`, a LiteLLM cache or an open cassette, stay in one process; the log says so.
"""

from llmbatch import create_chat_completions_batch

chats = [[{"role": "user", "content": f"Say {number}."}] for number in range(100)]
results = create_chat_completions_batch(chats, processes=2, max_workers=64)
print(results.summary())
