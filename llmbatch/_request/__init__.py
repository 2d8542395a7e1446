"""One request: its arguments, plan, limits, budget and circuit breaker, attempts, and what a failure means.

Nothing here knows about order, files or checkpoints: a `Sender` sends one request until it is answered or has failed.
"""
