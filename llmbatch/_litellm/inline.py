"""LiteLLM's request building on the loop's own thread: half of a bare call's time is handing it to a thread and back.

Where LiteLLM submits something else than expected, it goes to a thread as ever.
"""

from __future__ import annotations

import contextlib
import contextvars
import functools
from typing import TYPE_CHECKING, Any

from llmbatch._litellm import provider_of

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Iterator, Mapping
    from concurrent.futures import Executor

__all__ = ["calling", "inline_requests"]

# Providers whose synchronous part only builds the request: no token exchange that would block the loop.
_ONLY_BUILDS = {"openai", "azure", "hosted_vllm", "groq", "mistral", "deepseek", "openrouter", "together_ai", "xai",
                "anthropic", "cerebras", "fireworks_ai", "deepinfra", "perplexity"}  # fmt: skip
_may_inline = contextvars.ContextVar("llmbatch_may_inline", default=False)


@contextlib.contextmanager
def calling(request: Mapping[str, Any]) -> Iterator[None]:
    """Within it, LiteLLM's synchronous part of a call may run on the loop's own thread."""
    token = _may_inline.set(provider_of(request) in _ONLY_BUILDS)
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
