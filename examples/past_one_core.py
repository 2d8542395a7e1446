"""More than one core: LiteLLM calls in worker processes.

LiteLLM needs about 3 ms of CPU per call, so one process sends 100 to 300 rows a second. With `processes=4` four worker
processes build, send, parse and price the calls. Order, limits, budget, retries, checkpoint, callbacks and Ctrl-C stay
in one place, and the rows are the same. If a worker process dies, its requests are sent again.

The workers start while the first rows are sent from this process (importing LiteLLM takes them 5 s). They are kept for
the next batch and end after a minute without work. Your script needs no `if __name__ == "__main__"`. Streams, and calls
with LiteLLM callbacks, `client=`, a LiteLLM cache or an open cassette, stay in one process; the log says so.
"""

from llmbatch import create_chat_completions_batch

chats = [[{"role": "user", "content": f"Say {number}."}] for number in range(100)]
results = create_chat_completions_batch(chats, processes=2, max_workers=64)
print(results.summary())
