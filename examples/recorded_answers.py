"""Cassettes for your own tests: requests inside the block are answered from a file.

`LLMBATCH_RECORD=1` sends the requests and records the answers; without it nothing is ever sent. Requests are matched on
method, URI and body, so that concurrent rows get their own answers. A request that is not in the cassette is a failed
row of type `CassetteMiss`. Keys are not recorded; prompts and answers are. Needs `pip install "vcrpy>=9.4"`.
"""

from llmbatch import create_chat_completions_batch
from llmbatch.testing import cassette

local = {"model": "openai/smollm2", "api_base": "http://127.0.0.1:1/v1", "api_key": "any"}
chats = [
    [{"role": "system", "content": "You are an encyclopedia."}, {"role": "user", "content": question}]
    for question in ("What is the capital of France?", "Who invented the telephone?")
]
with cassette("cassettes/questions.yaml", record=False) as tape:
    results = create_chat_completions_batch(chats, max_tokens=24, **local)
print(tape.play_count, results.texts)
