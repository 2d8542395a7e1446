"""Make a batch of a caller's arguments. Misuse raises here, before anything is sent."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal

from llmbatch._batch.batch import Batch
from llmbatch._batch.chat_run import FLEX, ChatRun
from llmbatch._batch.embeddings_run import EmbeddingsRun
from llmbatch._deployments.groups import DeploymentGroups
from llmbatch._litellm.prices import takes_flex
from llmbatch._request.budget import Budget
from llmbatch._request.deployments import parse_deployments
from llmbatch._request.messages import check_messages_list, check_texts
from llmbatch._request.plans import (
    DEFAULT_EMBEDDING_MODEL,
    DEFAULT_MAX_TOKENS,
    DEFAULT_TEMPERATURE,
    EmbeddingsPlan,
    plan_embeddings,
)
from llmbatch.options import CHATS_ONLY, JOB_LANES, Options


def chat_batch(
    messages_list: Iterable[Any],
    model: str | None = None,
    temperature: float | None = DEFAULT_TEMPERATURE,
    max_tokens: int | None = DEFAULT_MAX_TOKENS,
    max_workers: int | Literal["auto"] = 10,
    *,
    shared_budget: Budget | None = None,
    kind: Callable[..., ChatRun] = ChatRun,
    **given: Any,
) -> Batch:
    """Return a batch of chats. `given` holds llmbatch's own options and LiteLLM's arguments.

    `shared_budget` is a budget that other runs spend too.
    """
    if kind is ChatRun and (given.pop("batch_job", False) or given.get("lane") in JOB_LANES):
        raise ValueError(
            "batch jobs are for create_chat_completions_batch and as_completed; leave out lane= and batch_job="
        )
    if kind is ChatRun and given.get("completion_window") is not None:
        raise ValueError("completion_window= is for batch jobs. Leave it out, or pass lane='job'")
    requests, count = check_messages_list(messages_list)
    given.pop("stream", None)  # whole rows need none; `stream_chat_completions_batch` streams by itself
    options = _options(given, max_workers, count)
    call = {"model": model, "temperature": temperature, "max_tokens": max_tokens, **given}
    if options.lane == "flex":
        if (tier := given.get("service_tier")) not in {None, FLEX}:
            raise ValueError(f"lane='flex' sends service_tier='flex', not {tier!r}; leave out one of them")
        call["service_tier"] = FLEX
    run = kind(requests, count, call, options, shared_budget)
    first = run.routes.first.plans[0]
    if options.lane == "flex" and not takes_flex(first.target):
        raise ValueError(f"{first.target.model} has no flex tier that LiteLLM knows a price of; leave out lane='flex'")
    return Batch(run, "Chat completion", first)


def embeddings_batch(
    texts: Iterable[Any],
    model: str | None = None,
    max_workers: int | Literal["auto"] = 10,
    *,
    shared_budget: Budget | None = None,
    **given: Any,
) -> Batch:
    """Return a batch of embeddings."""
    if chats_only := sorted(CHATS_ONLY & given.keys()):
        raise ValueError(f"{chats_only[0]}= is for chat completions; leave it out")
    items, count = check_texts(texts)
    options = _options(given, max_workers, count)
    plan = embeddings_plan(model, given)
    return Batch(EmbeddingsRun(items, count, plan, options, shared_budget), "Embedding", plan)


def embeddings_plan(model: str | None, given: Mapping[str, Any]) -> EmbeddingsPlan:
    """Return the plan of a call for embeddings, with its deployments. Raises as `plan_embeddings` does."""
    deployments = given.get("deployments")
    if deployments is None:
        return plan_embeddings(model, **given)
    call = {name: value for name, value in given.items() if name != "deployments"}
    groups = DeploymentGroups(parse_deployments(deployments), call, DEFAULT_EMBEDDING_MODEL)
    return groups.plan({"model": model, **call}, None, plan_embeddings)


def _options(given: Mapping[str, Any], max_workers: int | Literal["auto"], count: int | None) -> Options:
    """Return the checked options of a batch that is to be sent."""
    options = Options.among(given, max_workers=max_workers, count=count)
    if options.dry_run:
        raise ValueError(
            "dry_run=True is for create_chat_completions_batch, create_embeddings_batch and their async versions. Use "
            "one of them, or render_batch_requests and estimate_batch"
        )
    return options
