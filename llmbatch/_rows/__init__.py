"""The shapes of the data: a row, a provider's answer, and structured output, as plain dicts.

Nothing here sends a request or formats output for people.
"""
