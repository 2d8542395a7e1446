"""One request's way: its plan, limits, budget and breaker, attempts, and what a failure means.

Nothing here knows of lists, order, files or checkpoints: a `Sender` brings one request to an answer or a failure.
"""
