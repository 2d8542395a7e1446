"""A batch that survives `kill -9`, never costs more than it may, and asks another model where the first one fails.

The checkpoint has OpenAI's batch output lines: answers and digests of requests, no prompts and no keys. A rerun
sends only what is missing, failed or changed. It is a cache across lists too: what any run asked before is not sent
again, whatever its place, id and metadata now. After Ctrl-C, a notebook's Stop, or an exception of your generator
or of `on_result`, the finished rows are in `llmbatch.interrupted_results()`, and in the checkpoint if there is one.

`max_cost` needs prices: LiteLLM's, or your own for this call (`input_cost_per_token=`, `output_cost_per_token=`, in
USD). An image counts as 50,000 tokens, audio, video and files as the model's whole context window, and a token of
text as one byte; what nothing bounds (web search, code interpreters) is refused.
"""

from llmbatch import create_chat_completions_batch

chats = [[{"role": "user", "content": f"Name a word that begins with {letter}."}] for letter in "abc"]
results = create_chat_completions_batch(
    chats,
    checkpoint="run.jsonl",
    max_cost=0.50,  # USD: each request's worst case is reserved before it is sent
    fallbacks=["gpt-4o"],  # or {"model": "my-model", "api_base": "http://…/v1"}
    deadline=3600,  # seconds for everything; rows not done by then are error rows
)
again = create_chat_completions_batch(chats, checkpoint="run.jsonl")  # sends nothing: all is there
assert again.texts == results.texts
print(again.summary())
