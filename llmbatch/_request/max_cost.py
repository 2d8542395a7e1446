"""The most that a request can cost, for a budget that must hold.

What LiteLLM's price map has a price for is counted at the dearest of that price's tiers, for as many tokens as there
can be. What nothing bounds (server-side tools, media priced by the second) is refused.
"""

from __future__ import annotations

import functools
import json
import math
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from llmbatch._litellm import load
from llmbatch._litellm.prices import price_entry
from llmbatch._util.identity import is_connection

# A token is at least one byte of the text; roles and separators around it take a few more, and so does what providers
# say of tools and schemas. Documented images take at most 48,169 (gpt-4o-mini).
_AROUND_A_MESSAGE, _AROUND_TOOLS, _IMAGE_TOKENS = 16, 2000, 50_000

# The kinds of prices in the map, by the beginning of their names: all suffixes are tiers of the same price.
_TEXT = re.compile(
    r"input_cost_per_(token|character)|(explicit_)?cache_(creation|read)_input_token_cost|citation_cost_per_token"
)
_MEDIA = re.compile(r"(input_cost_per|cache_(creation|read)_input)_(audio|image|video)_token")
_ANSWER = re.compile(r"output_cost_per_([a-z]+_)?token")
_REQUEST, _IMAGE = re.compile(r"input_cost_per_(query|request)"), re.compile(r"input_cost_per_image(?!_token)")
_LENGTH = re.compile(r"input_cost_per_(audio|video)_per_second")
_NOT_ASKED = re.compile(  # prices of what is refused, and of what is no chat
    r"search_|google_maps_|code_interpreter_|file_search_|computer_use_|vector_store_|guardrail_|.*_dbu_|output_cost_per_image"
)  # fmt: skip
_SERVED = re.compile(r".*_(priority|flex|balanced|fast|ultrafast|decisions)$")  # tiers that no batch job is served at

_MODES = {None, "chat", "completion", "responses", "embedding"}
_SEARCHES_ALWAYS = re.compile(r"\b(search|deep-research|online|sonar|compound)\b")
# Arguments that add nothing to the tokens counted here. Any other might, as search_parameters= or plugins= do.
_BOUNDED = frozenset({
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
_IN_THE_PROMPT = ("tools", "functions", "tool_choice", "function_call", "response_format")
_TEXT_KEYS = {"role", "content", "name", "tool_calls", "tool_call_id", "function_call", "refusal", "reasoning_content",
              "thinking_blocks", "cache_control", "provider_specific_fields", "annotations", "prefix"}  # fmt: skip
_TEXT_PARTS = ("text", "refusal", "thinking", "redacted_thinking", "input_text", "output_text")
_AN_IMAGE = re.compile(r"data:image/|[^?#]+\.(png|jpe?g|webp|gif)([?#]|$)", re.IGNORECASE)
_A_MEDIUM = re.compile(r"data:|(gs|s3|https?)://")


def cost_upper_bound(plan: Any, *, job: bool = False) -> Callable[[Mapping[str, Any]], float]:
    """A function from a request to the USD that it costs at the very most, live or in a batch job.

    Both raise ValueError, with the mend, where no price is known or nothing bounds it: this one for what all requests
    of the plan share, the function for one request.
    """
    target = plan.target
    entry = price_entry(target)
    prices = [(name, value) for name, value in _flat(entry) if "cost" in name and value]
    if not any(_TEXT.match(name) for name, _ in _flat(entry)):
        raise ValueError(
            f"max_cost needs a price, and none is known for {target.model!r}: leave max_cost out, or pass "
            "input_cost_per_token= and output_cost_per_token= (USD)"
        )
    kinds = (_TEXT, _MEDIA, _ANSWER, _REQUEST, _IMAGE, _LENGTH, _NOT_ASKED)
    unbounded = next((name for name, _ in prices if not any(kind.match(name) for kind in kinds)), None)
    if unbounded or entry.get("mode") not in _MODES or _SEARCHES_ALWAYS.search(target.name):
        why = f"it has a price by {unbounded}" if unbounded else "it searches or makes media by itself"
        raise ValueError(
            f"max_cost cannot hold for {target.model!r}, since {why}, and nothing bounds how much: leave max_cost out"
        )
    factor = math.prod(max(1.0, value) for name, value in _flat(entry) if name.endswith("_multiplier"))
    factor *= math.prod(max(1.0, value) for _, value in _flat(entry.get("provider_specific_entry") or {}))

    def dearest(*kinds: re.Pattern[str]) -> float:
        known = [(name, value) for name, value in prices if any(kind.match(name) for kind in kinds)]
        if job:  # LiteLLM takes half of a price that has none for batches, but for what was cached
            known = [
                (name, value if "cache_read" in name or name.endswith("_batches") else value / 2)
                for name, value in known
                if not _SERVED.match(name)
            ]
        return factor * max((value for _, value in known), default=0.0)

    text, media, answer = dearest(_TEXT), dearest(_TEXT, _MEDIA), dearest(_ANSWER)
    once, image, length = dearest(_REQUEST), dearest(_IMAGE), dearest(_LENGTH)
    window, longest = entry.get("max_input_tokens"), entry.get("max_output_tokens")
    keeps_limits = _keeps_limits(target.name, target.provider)

    def worst(request: Mapping[str, Any]) -> float:
        asked = {**request, **(request.get("extra_body") or {})}
        _check_bounded(asked, request.get("model"))
        size, images, others = _prompt(asked)
        if others and (length or not window):
            raise ValueError(
                f"max_cost cannot hold with audio, video or files for {target.model!r}: nothing bounds their price"
            )
        seen = (window or 0) if others else min(images * _IMAGE_TOKENS, window or math.inf)
        cost = text * size + media * seen + image * images
        if "input" in asked:  # embeddings
            return cost + (once + image) * len(_texts(asked["input"]))
        most = max(asked.get("max_tokens") or 0, asked.get("max_completion_tokens") or 0)
        if not most or (not keeps_limits and (asked.get("drop_params") or load().drop_params)):
            most = longest
        if not most:
            raise ValueError(f"max_cost needs a bound on the answers of {target.model!r}: pass max_tokens=")
        answers = most * (asked.get("n") or 1) + _size(asked.get("prediction") or "")
        return cost + once + answer * answers

    counted(worst, {**plan.params, **({"messages": []} if hasattr(plan, "response_format") else {"input": []})})
    return worst


def counted(worst: Callable[[Mapping[str, Any]], float], request: Mapping[str, Any]) -> float:
    """What the function says of a request. Raises ValueError, which shows nothing of the row, where it cannot count."""
    try:
        return worst(request)
    except ValueError:
        raise
    except Exception as exc:
        why = f"max_cost cannot hold for what cannot be counted ({type(exc).__name__})"
        raise ValueError(f"{why}: mend the row, or extra_body= and its like") from exc


def _flat(entry: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """The numbers of an entry, those of its tiers and hours included."""
    for name, value in entry.items():
        for inner in value if isinstance(value, list) else [value]:
            if isinstance(inner, Mapping):
                yield from _flat(inner)
            elif isinstance(inner, int | float) and not isinstance(inner, bool):
                yield name, float(inner)


def _keeps_limits(model: str, provider: str) -> bool:
    """Whether LiteLLM sends max_tokens to the model, should it drop what a model does not take."""
    known = load().get_supported_openai_params(model=model, custom_llm_provider=provider)
    return known is None or bool({"max_tokens", "max_completion_tokens"} & set(known))


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _check_bounded(asked: Mapping[str, Any], model: str | None) -> None:
    """Raise ValueError, with the mend, for arguments that may cost more than the tokens counted here."""
    if asked.get("model") != model:
        raise ValueError("max_cost cannot hold with a model in extra_body=: pass it as model=")
    strange = [name for name in asked if name not in _BOUNDED and not is_connection(name)]
    counts = ((name, asked.get(name)) for name in ("n", "max_tokens", "max_completion_tokens"))
    strange += [name for name, count in counts if count is not None and not _is_count(count)]
    strange += ["modalities"] if set(asked.get("modalities") or ()) - {"text", "audio"} else []
    strange += ["tools"] if not all(_is_function(tool) for tool in asked.get("tools") or ()) else []
    if strange:
        server_side = " of the provider's own (not functions)" if strange[0] == "tools" else ""
        raise ValueError(
            f"max_cost cannot hold with {strange[0]}={server_side}: nothing bounds what it costs; leave out either"
        )


def _is_function(tool: Any) -> bool:
    kind = tool.get("type") if isinstance(tool, Mapping) else ""
    return kind == "function" or (kind in (None, "custom") and "input_schema" in tool)


def _prompt(asked: Mapping[str, Any]) -> tuple[int, int, int]:
    """Tokens of a prompt's text at most, and how many images and other media (audio, video, files) it holds."""
    if "input" in asked:
        texts = _texts(asked["input"])
        return sum(map(_size, texts)), 0, sum(bool(_A_MEDIUM.match(str(text))) for text in texts)
    given = {name: asked[name] for name in _IN_THE_PROMPT if asked.get(name)}
    text = sum(map(_size, given.values())) + (_AROUND_TOOLS if given else 0)
    images = media = 0
    for message in asked["messages"]:
        content = message.get("content")
        parts = content if isinstance(content, list) else [content]
        texts = [part for part in parts if not isinstance(part, Mapping) or part.get("type") in _TEXT_PARTS]
        pictures = sum(isinstance(part, Mapping) and _is_image(part) for part in parts)
        images += pictures
        media += len(parts) - len(texts) - pictures
        media += sum(bool(message[key]) for key in message.keys() - _TEXT_KEYS)
        text += _size({**message, "content": texts}) + _AROUND_A_MESSAGE
    return text, images, media


def _is_image(part: Mapping[str, Any]) -> bool:
    """Whether a part is surely a picture: providers also take PDFs and videos in its place."""
    if part.get("type") != "image_url":
        return False
    given = part.get("image_url")
    url = given.get("url") if isinstance(given, Mapping) else given
    return bool(_AN_IMAGE.match(str(url))) and not (isinstance(given, Mapping) and given.get("format"))


def _texts(given: Any) -> list[Any]:
    return given if isinstance(given, list) else [given]


def _size(value: Any) -> int:
    """Bytes of a text, or of anything as JSON: as many as its tokens at most."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=_schema)
    return len(text.encode("utf-8", "surrogatepass"))


@functools.lru_cache(maxsize=64)
def _schema(model: Any) -> Any:
    """What is written of a pydantic model."""
    return model.model_json_schema() if hasattr(model, "model_json_schema") else str(model)
