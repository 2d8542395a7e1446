"""Logging, callbacks, OpenTelemetry.

Logs, errors and checkpoints hold no key and no prompt. `on_result=` is called with `(index, row)` as rows finish.
LiteLLM's callbacks hear of every request: each answer once, each failed attempt once. Write success callbacks as
`async def` or as a `CustomLogger`; LiteLLM does not call plain functions for asynchronous requests.

Spans by the GenAI conventions come from LiteLLM (`pip install opentelemetry-sdk opentelemetry-exporter-otlp`):
`litellm.callbacks = ["otel"]`, with `USE_OTEL_LITELLM_REQUEST_SPAN=true` for a span per request below your own, and
`litellm.turn_off_message_logging = True` to keep prompts out of them.
"""

import llmbatch

llmbatch.enable_logging()  # batch size, workers, model, provider; then time, success rate, speed, tokens, cost

finished: list[int] = []
results = llmbatch.create_chat_completions_batch(
    [[{"role": "user", "content": "Hi"}]] * 2, on_result=lambda index, row: finished.append(index)
)
print(sorted(finished))
