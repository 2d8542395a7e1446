"""Rate limits: there is nothing to set.

Where the provider sends rate-limit headers (OpenAI, Azure, Anthropic, Groq, Mistral, …), requests are throttled to
them. Elsewhere llmbatch learns from 429s whether they depend on the rate, on the requests in flight, or on neither. The
log and the progress bar say what it found. With `max_workers="auto"` it also finds how many requests in flight pay off.
To stay below a share of your account's limit, set it: those limits are never exceeded, including fallbacks and
concurrent calls.
"""

from llmbatch import create_chat_completions_batch

chats = [[{"role": "user", "content": f"Name a word that begins with {letter}."}] for letter in "abc"]
results = create_chat_completions_batch(chats, max_workers="auto", requests_per_minute=3000, tokens_per_minute=200_000)
print(results.summary())
