"""LLM work that comes in lists."""
