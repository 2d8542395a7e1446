"""Rate limiting: when the next request may be sent.

Limits come from the caller, from response headers, and from what 429s reveal. Nothing here knows what an LLM is.
"""
