"""A batch that survives `kill -9`, stays within a spending cap, and falls back to another model.

The checkpoint is a JSONL file in OpenAI's batch output format. It contains answers and digests of requests, but no
prompts and no keys. A rerun sends only what is missing, failed or changed. Answers are found by the request's content,
so it also works as a cache for other lists. After Ctrl-C, a notebook's Stop, or an exception in your generator or in
`on_result`, the finished rows are in `llmbatch.interrupted_results()`, and in the checkpoint if there is one.

`max_cost` needs prices: LiteLLM's, or your own for this call (`input_cost_per_token=`, `output_cost_per_token=`, in
USD). An image counts as 50,000 tokens, audio, video and files as the model's whole context window, and a token of text
as one byte. Requests without an upper bound (web search, code interpreters) are rejected.
"""

from llmbatch import create_chat_completions_batch

chats = [[{"role": "user", "content": f"Name a word that begins with {letter}."}] for letter in "abc"]
results = create_chat_completions_batch(
    chats,
    checkpoint="run.jsonl",
    max_cost=0.50,  # USD: the maximum cost of each request is reserved before sending
    fallbacks=["gpt-4o"],  # or {"model": "my-model", "api_base": "http://…/v1"}
    deadline=3600,  # seconds for the whole batch; unfinished rows become error rows
)
again = create_chat_completions_batch(chats, checkpoint="run.jsonl")  # sends nothing: every answer is in the checkpoint
assert again.texts == results.texts
print(again.summary())
