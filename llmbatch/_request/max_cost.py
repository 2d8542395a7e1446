"""The most that a request can cost, for a budget that must hold.

Every price is taken at its highest tier, for the most tokens that there can be. What has no upper bound (server-side
tools, media priced by the second) is rejected.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from llmbatch._litellm import load
from llmbatch._litellm.prices import price_entry
from llmbatch._request.price_kinds import PriceKind, highest_prices, kind_of, numbers_in
from llmbatch._request.prompt_size import max_tokens_of, prompt_size, texts_of
from llmbatch._util.identity import is_connection

# Documented images take at most 48,169 tokens (gpt-4o-mini).
_MAX_IMAGE_TOKENS = 50_000

_MODES = {None, "chat", "completion", "responses", "embedding"}
_SEARCHES_BY_ITSELF = re.compile(r"\b(search|deep-research|online|sonar|compound)\b")
# Arguments that add nothing to the tokens counted here. Any other might, as search_parameters= or plugins= do.
_BOUNDED_ARGUMENTS = frozenset({
    "model", "messages", "input", "temperature", "top_p", "top_k", "top_a", "min_p", "stop", "seed",
    "random_seed", "user", "frequency_penalty", "presence_penalty", "repetition_penalty", "length_penalty",
    "min_tokens", "logit_bias", "logprobs", "top_logprobs", "max_tokens", "max_completion_tokens", "n",
    "response_format", "tools", "tool_choice", "functions", "function_call", "parallel_tool_calls",
    "prediction", "reasoning_effort", "reasoning", "thinking", "include_reasoning", "enable_thinking",
    "reasoning_format", "chat_template_kwargs", "verbosity", "store", "metadata", "safety_identifier",
    "safe_prompt", "safety_settings", "prompt_cache_key", "prompt_cache_retention",
    "cache_control_injection_points", "service_tier", "speed", "stream", "stream_options", "drop_params",
    "allowed_openai_params", "modalities", "audio", "extra_body", "dimensions", "encoding_format", "input_type",
    "truncate", "task_type", "title", "mock_response", "ssl_verify", "deployment_id", "region_name", "project",
})  # fmt: skip


@dataclass(frozen=True, slots=True)
class CostUpperBound:
    """The highest prices of one model in USD, and the bounds of its prompts and answers.

    Attributes:
        model: for error messages.
        prompt_token: price of a token of text.
        media_token: price of a token of an image, audio or video.
        answer_token: price of a token of the answer.
        request: price of a request.
        image: price of an image.
        has_duration_price: whether audio or video is charged by the second.
        context_window: most tokens of a prompt, if known.
        max_answer_tokens: most tokens of an answer, if known.
        keeps_max_tokens: whether LiteLLM sends max_tokens to the model even if it drops unsupported parameters.
    """

    model: str
    prompt_token: float
    media_token: float
    answer_token: float
    request: float
    image: float
    has_duration_price: bool
    context_window: int | None
    max_answer_tokens: int | None
    keeps_max_tokens: bool

    @classmethod
    def for_plan(cls, plan: Any, *, job: bool = False) -> CostUpperBound:
        """Build the bound for the requests of a plan, sent live or in a batch job.

        Raises ValueError if no price is known, or something that the requests share has no upper bound.
        """
        target = plan.target
        entry = price_entry(target)
        numbers = list(numbers_in(entry))
        prices = [(name, value) for name, value in numbers if "cost" in name and value]
        _check_prices(target, entry, [name for name, _ in numbers], prices)
        factor = math.prod(max(1.0, value) for name, value in numbers if name.endswith("_multiplier"))
        factor *= math.prod(max(1.0, value) for _, value in numbers_in(entry.get("provider_specific_entry") or {}))
        highest = highest_prices(prices, job=job)

        def price(*kinds: PriceKind) -> float:
            return factor * max(highest.get(kind, 0.0) for kind in kinds)

        bound = cls(
            model=target.model,
            prompt_token=price(PriceKind.PROMPT),
            media_token=price(PriceKind.PROMPT, PriceKind.MEDIA),
            answer_token=price(PriceKind.ANSWER),
            request=price(PriceKind.REQUEST),
            image=price(PriceKind.IMAGE),
            has_duration_price=price(PriceKind.DURATION) > 0,
            context_window=entry.get("max_input_tokens"),
            max_answer_tokens=entry.get("max_output_tokens"),
            keeps_max_tokens=_keeps_max_tokens(target.name, target.provider),
        )
        bound.of({**plan.params, **({"messages": []} if hasattr(plan, "response_format") else {"input": []})})
        return bound

    def of(self, request: Mapping[str, Any]) -> float:
        """Return the USD that a request costs at most.

        Raises ValueError, which shows nothing of the request, if it has no upper bound or cannot be counted.
        """
        try:
            return self._of({**request, **(request.get("extra_body") or {})}, request.get("model"))
        except ValueError:
            raise
        except Exception as exc:
            why = f"cannot compute the maximum cost of this request ({type(exc).__name__})"
            raise ValueError(f"{why}. Check the request and extra_body=, or leave max_cost out") from exc

    def _of(self, arguments: Mapping[str, Any], model: str | None) -> float:
        _check_bounded(arguments, model)
        size = prompt_size(arguments)
        window = self.context_window
        if size.other_media and (self.has_duration_price or not window):
            raise ValueError(
                f"max_cost cannot be enforced for audio, video or files with {self.model!r}: their price has no upper "
                "bound. Leave them out, or leave max_cost out"
            )
        if size.other_media:
            media_tokens: float = window or 0
        else:
            media_tokens = min(size.images * _MAX_IMAGE_TOKENS, window or math.inf)
        cost = self.prompt_token * size.text_tokens + self.media_token * media_tokens + self.image * size.images
        if "input" in arguments:  # embeddings
            return cost + (self.request + self.image) * len(texts_of(arguments["input"]))
        tokens = self._answer_tokens(arguments) * (arguments.get("n") or 1)
        tokens += max_tokens_of(arguments.get("prediction") or "")
        return cost + self.request + self.answer_token * tokens

    def _answer_tokens(self, arguments: Mapping[str, Any]) -> int:
        """Return the most tokens of one answer: the request's own limit, unless LiteLLM may drop it."""
        limit = max(arguments.get("max_tokens") or 0, arguments.get("max_completion_tokens") or 0)
        may_be_dropped = not self.keeps_max_tokens and (arguments.get("drop_params") or load().drop_params)
        if limit and not may_be_dropped:
            return int(limit)
        if not self.max_answer_tokens:
            raise ValueError(
                f"max_cost needs an upper bound for the answers of {self.model!r}, and none is known. Pass max_tokens="
            )
        return self.max_answer_tokens


def _check_prices(target: Any, entry: Mapping[str, Any], names: list[str], prices: list[tuple[str, float]]) -> None:
    """Raise ValueError for a model without a price, or with one that has no upper bound."""
    if not any(kind_of(name) is PriceKind.PROMPT for name in names):
        raise ValueError(
            f"max_cost needs a price, and none is known for {target.model!r}. Pass input_cost_per_token= and "
            "output_cost_per_token= (USD), or leave max_cost out"
        )
    why = ""
    if unknown := next((name for name, _ in prices if kind_of(name) is None), None):
        why = f"it charges by {unknown}, which has no upper bound"
    elif entry.get("mode") not in _MODES or _SEARCHES_BY_ITSELF.search(target.name):
        why = "it searches or makes media by itself, which has no upper bound"
    if why:
        raise ValueError(f"max_cost cannot be enforced for {target.model!r}: {why}. Leave max_cost out")


def _keeps_max_tokens(model: str, provider: str) -> bool:
    """Return whether LiteLLM sends max_tokens to a model, should it drop what the model does not take."""
    known = load().get_supported_openai_params(model=model, custom_llm_provider=provider)
    return known is None or bool({"max_tokens", "max_completion_tokens"} & set(known))


def _check_bounded(arguments: Mapping[str, Any], model: str | None) -> None:
    """Raise ValueError for arguments that may cost more than the tokens counted here."""
    if arguments.get("model") != model:
        raise ValueError("max_cost cannot be enforced with a model in extra_body=. Pass it as model=")
    unbounded = [name for name in arguments if name not in _BOUNDED_ARGUMENTS and not is_connection(name)]
    counts = ((name, arguments.get(name)) for name in ("n", "max_tokens", "max_completion_tokens"))
    unbounded += [name for name, count in counts if count is not None and not _is_count(count)]
    unbounded += ["modalities"] if set(arguments.get("modalities") or ()) - {"text", "audio"} else []
    unbounded += ["tools"] if not all(_is_function(tool) for tool in arguments.get("tools") or ()) else []
    if unbounded:
        name = unbounded[0]
        server_side = " that the provider runs (not functions)" if name == "tools" else ""
        raise ValueError(
            f"max_cost cannot be enforced with {name}={server_side}: its cost has no upper bound. "
            f"Leave out {name}= or max_cost="
        )


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _is_function(tool: Any) -> bool:
    kind = tool.get("type") if isinstance(tool, Mapping) else ""
    return kind == "function" or (kind in (None, "custom") and "input_schema" in tool)
