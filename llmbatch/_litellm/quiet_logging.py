"""A logging object for LiteLLM's calls that computes nothing for callbacks that nobody registered.

It is not used if a callback is registered, or if LiteLLM is not as expected.
"""

from __future__ import annotations

import datetime as dt
import functools
import uuid
from collections.abc import Callable, Mapping
from typing import Any

from llmbatch._litellm import load
from llmbatch._litellm.fast_prices import LinearPrices
from llmbatch._litellm.loading import internal
from llmbatch._litellm.private_api import LOGGING, is_available
from llmbatch._util.row_tag import current_row

_DYNAMIC = ("callbacks", "success_callback", "failure_callback", "logger_fn", "guardrails", "prompt_id", "caching")
_HOOKS = ("callbacks", "input_callback", "success_callback", "failure_callback", "service_callback",
          "_async_input_callback", "_async_success_callback", "_async_failure_callback", "pre_call_rules",
          "post_call_rules", "custom_provider_map")  # fmt: skip


@functools.cache
def _quiet_logging() -> Callable[..., Any] | None:
    """Return the class, None if LiteLLM's own is not built as expected."""
    if not is_available("quiet_logging"):
        return None
    logging, prices = internal(LOGGING), LinearPrices()
    calculate = internal(f"{LOGGING}._response_cost_calculator")

    class QuietLogging(logging):  # type: ignore[misc,valid-type]  # a class
        def claim_async_success_log(self) -> bool:
            return False

        def response_cost_calculator(self, result: Any, *args: Any, **kwargs: Any) -> float | None:
            return prices.cost(self, result, functools.partial(calculate, self, result, *args, **kwargs))

        _response_cost_calculator = response_cost_calculator  # its name until 1.105

    return QuietLogging


def anybody_listens(request: Mapping[str, Any]) -> bool:
    """Return whether a callback, rule or hook is registered for a call."""
    # LiteLLM's first Gemini call registers its own cache, which is checked separately.
    settings = vars(load())
    registered = [hook != "cache" for name in _HOOKS for hook in settings.get(name) or ()]
    return any(registered) or any(map(request.get, _DYNAMIC))


def logging_arguments(request: Mapping[str, Any]) -> dict[str, Any]:
    """Return `litellm_logging_obj` for a call that no callback, cache, rule or hook needs; else nothing."""
    litellm, quiet = load(), _quiet_logging()
    # Tool-call ids may need corrections that only LiteLLM's own logging object makes.
    may_need_corrections = any("tool_calls" in message for message in request["messages"])
    if (
        may_need_corrections
        or anybody_listens(request)
        or litellm.cache is not None
        or litellm.max_budget
        or litellm.model_fallbacks
    ):
        return {}
    return {} if quiet is None else {"litellm_logging_obj": new_logging(quiet, request, "acompletion")}


def listener_metadata(request: Mapping[str, Any]) -> dict[str, Any]:
    """Return `metadata` for a call that somebody listens to: the row's batch, index, id and own metadata.

    LiteLLM gives it to callbacks. Of its top level it sends some names to some providers (`user_id` to Anthropic), so
    the row's own metadata has a level of its own.
    """
    row = current_row()
    if row is None or load().enable_preview_features:  # with which LiteLLM sends it to OpenAI
        return {}
    place = {"batch_id": row.batch_id, "index": row.index, "custom_id": row.custom_id}
    own = {} if row.metadata is None else {"row_metadata": row.metadata}
    # LiteLLM's OpenTelemetry spans have this key, and no unknown ones.
    return {"metadata": {**(request.get("metadata") or {}), **place, **own, "spend_logs_metadata": {**place, **own}}}


def new_logging(kind: Callable[..., Any], request: Mapping[str, Any], call_type: str) -> Any:
    """Return a logging object of this class, as LiteLLM itself would make one for the call."""
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
