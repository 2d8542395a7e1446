"""What saves CPU by leaning on LiteLLM's internals. Each part switches itself off where they are not as expected.

Measured on 1.105: half of a bare `acompletion`'s 8 ms goes into payloads for callbacks that nobody registered and into
handing the synchronous part of the call to a thread and back. `tests/test_litellm_contract.py` holds the expectations.
"""

from __future__ import annotations

import contextlib
import contextvars
import datetime as dt
import functools
import uuid
from typing import TYPE_CHECKING, Any

from llmbatch._litellm import load

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Iterator, Mapping
    from concurrent.futures import Executor

__all__ = ["calling", "inline_requests", "logging_arguments"]

# Providers whose synchronous part only builds the request: no token exchange that would block the loop.
_ONLY_BUILDS = {"openai", "azure", "hosted_vllm", "groq", "mistral", "deepseek", "openrouter", "together_ai", "xai",
                "anthropic", "cerebras", "fireworks_ai", "deepinfra", "perplexity"}  # fmt: skip
_may_inline = contextvars.ContextVar("llmbatch_may_inline", default=False)
_DYNAMIC = ("callbacks", "success_callback", "failure_callback", "logger_fn", "guardrails", "prompt_id", "caching")
_HOOKS = ("callbacks", "input_callback", "success_callback", "failure_callback", "service_callback",
          "_async_input_callback", "_async_success_callback", "_async_failure_callback", "pre_call_rules",
          "post_call_rules", "custom_provider_map")  # fmt: skip


@functools.cache
def _quiet_logging() -> Callable[..., Any] | None:
    """LiteLLM's logging object without what only callbacks need; None where it is not built as expected."""
    load()
    try:
        from litellm.litellm_core_utils.litellm_logging import Logging  # noqa: PLC0415 - imports litellm

        for name in ("claim_async_success_log", "handle_sync_success_callbacks_for_async_calls", "failure_handler",
                     "async_failure_handler"):  # fmt: skip
            getattr(Logging, name)
    except (ImportError, AttributeError):
        return None

    class QuietLogging(Logging):
        def claim_async_success_log(self) -> bool:
            return False

        def handle_sync_success_callbacks_for_async_calls(self, *_: Any, **__: Any) -> None:
            return None

        def failure_handler(self, *_: Any, **__: Any) -> None:
            return None

        async def async_failure_handler(self, *_: Any, **__: Any) -> None:
            return None

    return QuietLogging


def _asked_for(hooks: Any) -> bool:
    """Whether anybody but LiteLLM is in the list: its first Gemini call enters its own cache, checked apart."""
    return any(hook != "cache" for hook in hooks or ())


def logging_arguments(request: Mapping[str, Any]) -> dict[str, Any]:
    """`litellm_logging_obj` for a call that no callback, cache, rule or hook wants to hear of; else nothing."""
    litellm = load()
    if any(_asked_for(getattr(litellm, name, None)) for name in _HOOKS) or any(request.get(name) for name in _DYNAMIC):
        return {}
    if litellm.cache is not None or litellm.max_budget or litellm.model_fallbacks:
        return {}
    # Tool-call ids may need the mending that only LiteLLM's full set-up does.
    if any("tool_calls" in message for message in request["messages"]):
        return {}
    quiet = _quiet_logging()
    if quiet is None:
        return {}
    try:
        made = quiet(
            model=request["model"],
            messages=request["messages"],
            stream=False,
            call_type="acompletion",
            start_time=dt.datetime.now(),  # noqa: DTZ005 - LiteLLM subtracts naive datetimes
            litellm_call_id=str(uuid.uuid4()),
            function_id="",
            kwargs={},
        )
    except TypeError:
        return {}
    return {"litellm_logging_obj": made}


@contextlib.contextmanager
def calling(request: Mapping[str, Any]) -> Iterator[None]:
    """Within it, LiteLLM's synchronous part of a call may run on the loop's own thread."""
    provider = request.get("custom_llm_provider") or str(request["model"]).partition("/")[0]
    token = _may_inline.set(provider in _ONLY_BUILDS)
    try:
        yield
    finally:
        _may_inline.reset(token)


def inline_requests(loop: asyncio.AbstractEventLoop) -> None:
    """Let the loop run LiteLLM's request building at once, and everything else that goes to its executor in threads.

    The future is done when it is returned, so that no cancellation can come between it and the coroutine in it.
    """
    in_thread = loop.run_in_executor

    def run(executor: Executor | None, fn: Callable[..., Any], *args: Any) -> asyncio.Future[Any]:
        if executor is not None or not (_may_inline.get() and _builds_a_request(fn)):
            return in_thread(executor, fn, *args)
        future = loop.create_future()
        try:
            future.set_result(fn(*args))
        except Exception as exc:  # noqa: BLE001 - raised where the future is awaited
            future.set_exception(exc)
        return future

    with contextlib.suppress(AttributeError):  # a loop that is not Python's own
        loop.run_in_executor = run  # type: ignore[method-assign,assignment]


def _builds_a_request(fn: Any) -> bool:
    """Whether it is `partial(context.run, partial(litellm.completion, ...))`, which is what acompletion submits."""
    inner = fn.args[0] if isinstance(fn, functools.partial) and fn.args else None
    return (
        isinstance(inner, functools.partial)
        and isinstance(getattr(fn.func, "__self__", None), contextvars.Context)
        and str(getattr(inner.func, "__module__", "")).startswith("litellm.")
        and getattr(inner.func, "__name__", "") in {"completion", "embedding"}
    )
