"""One batch's run: prepared from a caller's arguments, fanned out, resumed, and made into rows.

Nothing here is called by users, sends by itself (that is `_request`), or knows of the provider's Batch API (`_jobs`).
"""
