"""Keyword arguments of the list functions: llmbatch's own options, and LiteLLM's arguments for chats.

`ChatOptions` and `EmbeddingsOptions` are for editors and type checkers (`**options: Unpack[ChatOptions]`); `Options`
holds llmbatch's own, checked. `create_chat_completions_batch` documents them.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Generic, Literal, Self, TypedDict, get_args

from llmbatch._rows.row import Row
from llmbatch._rows.structured_output import M
from llmbatch._util.checks import check_number, checked_ids
from llmbatch.events import Event

if TYPE_CHECKING:
    import os

__all__ = [
    "CHATS_ONLY",
    "JOB_LANES",
    "OWN_OPTIONS",
    "BatchOptions",
    "ChatOptions",
    "EmbeddingsOptions",
    "Lane",
    "Options",
    "Transport",
]


Lane = Literal["live", "job", "flex", "cheapest"]
Transport = Literal["litellm", "direct"]
JOB_LANES = frozenset({"job", "cheapest"})


class _Connection(TypedDict, total=False):
    """LiteLLM's arguments for reaching a provider."""

    api_base: str | None
    base_url: str | None
    api_key: str | None
    api_version: str | None
    custom_llm_provider: str | None
    organization: str | None
    extra_headers: Mapping[str, str] | None
    extra_body: Mapping[str, Any] | None
    client: Any
    drop_params: bool | None


class BatchOptions(TypedDict, total=False):
    """llmbatch's own options for every batch."""

    requests_per_minute: float | None
    tokens_per_minute: float | None
    retries: int
    server_wait: float
    timeout: float | None
    deadline: float | None
    max_cost: float | None
    checkpoint: str | os.PathLike[str] | None
    progress: bool | None
    on_result: Callable[[int, Row], object] | None
    on_event: Callable[[Event], object] | None
    custom_ids: Sequence[str] | None
    processes: int | Literal["auto"]
    transport: Transport
    deployments: Sequence[Mapping[str, Any]] | None
    dry_run: bool


class EmbeddingsOptions(BatchOptions, _Connection, total=False):
    """Options for embeddings."""

    dimensions: int | None
    encoding_format: str | None
    user: str | None
    input_type: str | None


class ChatOptions(BatchOptions, _Connection, Generic[M], total=False):
    """Options for chats; `M` is the pydantic model of `response_format`."""

    system: str | None
    fallbacks: Sequence[str | dict[str, Any]] | None
    reask: int
    validate: Callable[[Row], str | None] | None
    dedupe: bool
    warm_prompt_cache: bool
    lane: Lane
    batch_job: bool
    completion_window: str
    response_format: type[M] | Mapping[str, Any] | None
    tools: Sequence[Any] | None
    tool_choice: str | Mapping[str, Any] | None
    parallel_tool_calls: bool | None
    functions: Sequence[Mapping[str, Any]] | None
    function_call: str | Mapping[str, Any] | None
    top_p: float | None
    n: int | None
    stop: str | Sequence[str] | None
    seed: int | None
    max_completion_tokens: int | None
    presence_penalty: float | None
    frequency_penalty: float | None
    logit_bias: Mapping[str, float] | None
    logprobs: bool | None
    top_logprobs: int | None
    user: str | None
    reasoning_effort: str | None
    thinking: Mapping[str, Any] | None
    modalities: Sequence[str] | None
    audio: Mapping[str, Any] | None
    prediction: Mapping[str, Any] | None
    web_search_options: Mapping[str, Any] | None
    service_tier: str | None
    verbosity: str | None
    safety_identifier: str | None
    prompt_cache_key: str | None
    stream: bool | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """Checked options of one batch, with their defaults."""

    max_workers: int | Literal["auto"] = 10
    requests_per_minute: float | None = None
    tokens_per_minute: float | None = None
    retries: int = 6
    server_wait: float = 300.0
    timeout: float | None = 600.0
    deadline: float | None = None
    max_cost: float | None = None
    system: str | None = None
    fallbacks: Sequence[str | dict[str, Any]] = ()
    reask: int = 0
    validate: Callable[[Row], str | None] | None = None
    dedupe: bool = False
    checkpoint: str | os.PathLike[str] | None = None
    warm_prompt_cache: bool = False
    progress: bool | None = None
    on_result: Callable[[int, Row], object] | None = None
    on_event: Callable[[Event], object] | None = None
    custom_ids: Sequence[str] | None = None
    processes: int | Literal["auto"] = 1
    lane: Lane = "live"
    transport: Transport = "litellm"
    deployments: Any = None
    dry_run: bool = False

    @classmethod
    def among(cls, given: Mapping[str, Any], *, max_workers: int | Literal["auto"], count: int | None) -> Self:
        """Return the options among a call's arguments, for `count` rows (None: unknown).

        Raises ValueError and TypeError for misuse.
        """
        own = {field.name: given[field.name] for field in fields(cls) if field.name in given}
        own["fallbacks"] = _listed("fallbacks", own.get("fallbacks"), "models") or ()
        own["custom_ids"] = _listed("custom_ids", own.get("custom_ids"), "strings")
        options = cls(max_workers=max_workers, **own)
        ids = options.custom_ids
        if ids is not None and count is not None and len(ids) != count:
            raise ValueError(f"custom_ids has {len(ids)} ids for {count} rows. Pass one for each row")
        return options

    def __post_init__(self) -> None:
        for name in ("max_workers", "processes"):
            if getattr(self, name) != "auto":
                check_number(name, getattr(self, name), 'pass a whole number, or "auto"', whole=True, least=1)
        for name in ("requests_per_minute", "tokens_per_minute", "timeout", "deadline", "max_cost"):
            value = getattr(self, name)
            if value is not None:
                check_number(name, value, "leave it out (None) for no limit")
        check_number("server_wait", self.server_wait, "0 does not wait for a server that is away", least=0)
        check_number("retries", self.retries, "0 sends each row once", whole=True, least=0)
        check_number("reask", self.reask, "0 takes the first answer as it is", whole=True, least=0)
        for name, kinds in (("lane", Lane), ("transport", Transport)):
            if getattr(self, name) not in get_args(kinds):
                raise ValueError(f"{name} must be one of {', '.join(get_args(kinds))}, not {getattr(self, name)!r}")
        if not isinstance(self.dry_run, bool):
            raise TypeError(f"dry_run must be True or False, not {type(self.dry_run).__name__}")
        _check_lane(self)
        for entry in self.fallbacks:
            _check_fallback(entry)
        _check_plain("on_result", self.on_result, "a function of (index, row)")
        _check_plain("on_event", self.on_event, "a function of an event")
        _check_plain("validate", self.validate, "a function of a row that returns None or what is wrong with it")
        for _ in checked_ids(self.custom_ids or ()):
            pass


def _check_lane(options: Options) -> None:
    """Raise ValueError for a lane that is for one account."""
    if options.deployments is not None and options.lane != "live":
        raise ValueError(f"lane={options.lane!r} is for one account. Leave out deployments=, or lane=")


def _check_fallback(entry: Any) -> None:
    """Raise TypeError or ValueError for an entry of `fallbacks` that is not a model, or has options of the batch."""
    if not isinstance(entry, str | dict):
        raise TypeError(
            f"fallbacks must hold models' names or dicts, not {type(entry).__name__}: "
            '["gpt-4o", {"model": "gpt-4o", "temperature": 0}]'
        )
    if isinstance(entry, dict) and (own := sorted((OWN_OPTIONS - {"system"}) & entry.keys())):
        raise ValueError(f"{own[0]} in fallbacks is an option of the whole batch. Pass it to the function instead")


def _check_plain(name: str, given: Any, shape: str) -> None:
    """Raise TypeError for what cannot be called, or must be awaited."""
    if given is not None and (not callable(given) or inspect.iscoroutinefunction(given)):
        raise TypeError(f"{name} must be {shape}, and not an async function")


def _listed(name: str, given: Any, what: str) -> list[Any] | None:
    """Return any iterable as a list: a filtered Series has an index of its own."""
    if given is None:
        return None
    if isinstance(given, str | bytes | dict) or not isinstance(given, Iterable):
        raise TypeError(f"{name} must be a list of {what}, not one {type(given).__name__}. Put it in a list")
    return list(given)


CHATS_ONLY = frozenset({
    "batch_job", "dedupe", "fallbacks", "lane", "reask", "system", "validate", "warm_prompt_cache",
})  # fmt: skip
OWN_OPTIONS = frozenset(field.name for field in fields(Options)) | CHATS_ONLY
"""llmbatch's own keyword arguments; every other one goes to LiteLLM."""
