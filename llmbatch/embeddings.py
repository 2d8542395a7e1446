"""Embeddings for lists: texts are sent in chunks, and every text has a row of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Literal, Unpack, cast

from llmbatch import _litellm
from llmbatch._batch.prepare import embeddings_batch
from llmbatch._request.messages import check_texts
from llmbatch._request.parsed_request import ParsedRequest
from llmbatch._util.background_loop import awaited, in_background
from llmbatch.options import EmbeddingsOptions
from llmbatch.results import BatchResults

if TYPE_CHECKING:
    from llmbatch.dry_run import DryRun

__all__ = ["acreate_embeddings_batch", "create_embeddings_batch"]


def create_embeddings_batch(
    texts: Iterable[str],
    model: str | None = None,
    max_workers: int | Literal["auto"] = 10,
    **options: Unpack[EmbeddingsOptions],
) -> BatchResults:
    """Embed a list of texts concurrently, many in a request: one row for each text, in order, whatever fails.

    Returns BatchResults whose rows have `data: [{"embedding": [floats]}]`; `results.embeddings` is the list of vectors,
    None where a row failed. A text that the provider rejects fails alone. With `dry_run=True` it returns a DryRun.
    Raises ValueError or TypeError for misuse.

    Args:
        texts: strings, in a list, a generator or a column of a table.
        model: LiteLLM's model string, text-embedding-3-small unless given.
        max_workers: the most requests in flight, or "auto": more as long as that makes the batch faster.
        options: those of `create_chat_completions_batch`, without those for chats: `system`, `fallbacks`, `reask`,
            `validate`, `dedupe`, `warm_prompt_cache`, `lane`. Everything else goes to LiteLLM untouched, as in
            `dimensions=256`.

    Example:
        vectors = create_embeddings_batch(["a cat", "a dog"], "text-embedding-3-small").embeddings
    """
    return in_background(_collected(texts, model, max_workers, options))


async def acreate_embeddings_batch(
    texts: Iterable[str],
    model: str | None = None,
    max_workers: int | Literal["auto"] = 10,
    **options: Unpack[EmbeddingsOptions],
) -> BatchResults:
    """Embed a list of texts concurrently; the async version of `create_embeddings_batch`.

    Example:
        results = await acreate_embeddings_batch(["a cat", "a dog"])
    """
    return await awaited(_collected(texts, model, max_workers, options))


async def _collected(
    texts: Iterable[str], model: str | None, max_workers: int | Literal["auto"], options: EmbeddingsOptions
) -> BatchResults:
    await asyncio.to_thread(_litellm.load)
    if options.get("dry_run") is True:
        return cast("BatchResults", await _dry_run(texts, model, max_workers, options))
    return await embeddings_batch(texts, model, max_workers, **options).collect()


async def _dry_run(
    texts: Iterable[str], model: str | None, max_workers: int | Literal["auto"], options: EmbeddingsOptions
) -> DryRun:
    """Check the call as a run would, and return what it would send, each text by itself."""
    from llmbatch.dry_run import DryRun, dry_payloads  # noqa: PLC0415 - only dry runs need it
    from llmbatch.estimate import estimate_embeddings  # noqa: PLC0415

    given: dict[str, Any] = {name: value for name, value in options.items() if name != "dry_run"}
    items = list(check_texts(texts)[0])
    batch = embeddings_batch(items, model, max_workers, **given)
    parsed, ids = [ParsedRequest(text) for text in items], batch.run.options.custom_ids
    payloads, invalid = await asyncio.to_thread(dry_payloads, lambda _: batch.plan, parsed, ids)
    estimate = await asyncio.to_thread(estimate_embeddings, items, model, max_workers, **given)
    return DryRun(payloads, estimate, invalid)
