"""Logging, callbacks and OpenTelemetry.

Logs, errors and checkpoints contain no keys and no prompts. `on_result=` is called with `(index, row)` as rows finish.
LiteLLM's callbacks are called for every request: once per answer and once per failed attempt. Write success callbacks
as `async def` or as a `CustomLogger`; LiteLLM does not call plain functions for asynchronous requests.

LiteLLM creates spans by the GenAI conventions (`pip install opentelemetry-sdk opentelemetry-exporter-otlp`):
`litellm.callbacks = ["otel"]`, with `USE_OTEL_LITELLM_REQUEST_SPAN=true` for one span per request inside your own span,
and `litellm.turn_off_message_logging = True` to keep prompts out of them.
"""

import llmbatch

llmbatch.enable_logging()  # shows what the batch does, and its summary at the end

finished: list[int] = []
results = llmbatch.create_chat_completions_batch(
    [[{"role": "user", "content": "Hi"}]] * 2, on_result=lambda index, row: finished.append(index)
)
print(sorted(finished))
