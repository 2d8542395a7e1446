"""A logging object for LiteLLM's calls that computes nothing for callbacks that nobody registered.

It saves half of a bare `acompletion`'s CPU time, and is not used where anybody listens or where LiteLLM is not as
expected: `tests/test_litellm_contract.py` holds the expectations.
"""

from __future__ import annotations

import datetime as dt
import functools
import inspect
import uuid
from typing import TYPE_CHECKING, Any

from llmbatch._litellm import load
from llmbatch._litellm.linear import LinearPrices

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

__all__ = ["logging_arguments", "new_logging"]

_DYNAMIC = ("callbacks", "success_callback", "failure_callback", "logger_fn", "guardrails", "prompt_id", "caching")
_HOOKS = ("callbacks", "input_callback", "success_callback", "failure_callback", "service_callback",
          "_async_input_callback", "_async_success_callback", "_async_failure_callback", "pre_call_rules",
          "post_call_rules", "custom_provider_map")  # fmt: skip
_USED = ("pre_call", "claim_async_success_log", "handle_sync_success_callbacks_for_async_calls", "failure_handler",
         "async_failure_handler", "_response_cost_calculator")  # fmt: skip


@functools.cache
def _quiet_logging() -> Callable[..., Any] | None:
    """The class; None where LiteLLM's own is not built as expected."""
    load()
    try:
        from litellm.litellm_core_utils.litellm_logging import Logging  # noqa: PLC0415 - imports litellm

        for name in _USED:
            getattr(Logging, name)
    except (ImportError, AttributeError):
        return None
    prices = LinearPrices()

    class QuietLogging(Logging):
        def claim_async_success_log(self) -> bool:
            return False

        def handle_sync_success_callbacks_for_async_calls(self, *_: Any, **__: Any) -> None:
            return None

        def failure_handler(self, *_: Any, **__: Any) -> None:
            return None

        async def async_failure_handler(self, *_: Any, **__: Any) -> None:
            return None

        def pre_call(self, *args: Any, **kwargs: Any) -> None:
            super().pre_call(*args, **kwargs)  # type: ignore[no-untyped-call]
            told = kwargs.get("additional_args") or {}
            if told.get("openai_sdk"):
                _spare_the_sdk(told.get("complete_input_dict"))

        def _response_cost_calculator(self, result: Any, *args: Any, **kwargs: Any) -> float | None:
            whole = functools.partial(super()._response_cost_calculator, result, *args, **kwargs)
            return prices.cost(self, result, whole)

    return QuietLogging


def _spare_the_sdk(data: Any) -> None:
    """Let the OpenAI SDK merge plain JSON into the body, in its own order, instead of matching values to its types."""
    if not isinstance(data, dict) or data.get("stream") or not (data.get("messages") and data.get("model")):
        return
    plain = {name: data.pop(name) for name in _sdk_fields() if name in data}
    data |= {"messages": [], "model": plain["model"], "extra_body": plain | (data.get("extra_body") or {})}


@functools.cache
def _sdk_fields() -> tuple[str, ...]:
    """The names of a chat request's fields in the order in which the SDK writes them."""
    from openai.resources.chat.completions import AsyncCompletions  # noqa: PLC0415 - comes with litellm

    names = inspect.signature(AsyncCompletions.create).parameters
    return tuple(name for name in names if name not in {"self", "stream", "timeout"} and not name.startswith("extra_"))


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
        made = new_logging(quiet, request, "acompletion")
    except TypeError:
        return {}
    return {"litellm_logging_obj": made}


def new_logging(kind: Callable[..., Any], request: Mapping[str, Any], call_type: str) -> Any:
    """A logging object of this class, as LiteLLM itself would make one for the call."""
    return kind(
        model=request["model"],
        messages=request.get("messages") or request.get("input"),
        stream=False,
        call_type=call_type,
        start_time=dt.datetime.now(),  # noqa: DTZ005 - LiteLLM subtracts naive datetimes
        litellm_call_id=str(uuid.uuid4()),
        function_id="",
        kwargs={},
    )
