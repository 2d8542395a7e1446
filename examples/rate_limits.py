"""Rate limits: there is nothing to set.

Where the provider states its limits (OpenAI, Azure, Anthropic, Groq, Mistral, …) requests are paced to them;
elsewhere it is found out from refusals whether they depend on the rate, on the number in flight or on neither, and
the log and the progress bar say so ("refusals do not depend on the rate (5% of requests): nothing is held back").
With `max_workers="auto"` the number of requests in flight is found too. To stay below a share of an account's
limit, say so: those numbers are never exceeded, fallbacks and concurrent calls included.
"""

from llmbatch import create_chat_completions_batch

chats = [[{"role": "user", "content": f"Name a word that begins with {letter}."}] for letter in "abc"]
results = create_chat_completions_batch(chats, max_workers="auto", requests_per_minute=3000, tokens_per_minute=200_000)
print(results.summary())
