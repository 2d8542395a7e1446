"""Embeddings for lists: texts are sent in chunks, and every text has a row of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Literal, Unpack

from llmbatch import _litellm
from llmbatch._batch.prepare import embeddings_batch
from llmbatch._util.background_loop import awaited, in_background
from llmbatch.options import EmbeddingsOptions
from llmbatch.results import BatchResults

__all__ = ["acreate_embeddings_batch", "create_embeddings_batch"]


def create_embeddings_batch(
    texts: Iterable[str],
    model: str | None = None,
    max_workers: int | Literal["auto"] = 10,
    **options: Unpack[EmbeddingsOptions],
) -> BatchResults:
    """Embed a list of texts concurrently, many in a request; one row for each text, in order, whatever fails.

    Returns BatchResults whose rows hold `data: [{"embedding": [floats]}]`; `results.embeddings` is the list of vectors,
    None where a row failed. A text that the provider refuses fails alone. Raises ValueError or TypeError for misuse.

    Args:
        texts: strings; a list or a generator.
        model: LiteLLM's model string, text-embedding-3-small unless given.
        max_workers: requests in flight at most, or "auto": as many as make it faster.
        options: those of `create_chat_completions_batch` but for what is of chats only: `fallbacks`,
            `warm_prompt_cache`, `batch_job`. Everything else goes to LiteLLM untouched, as in `dimensions=256`.

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
    """Embed a list of texts concurrently; the awaitable twin of `create_embeddings_batch`.

    Example:
        results = await acreate_embeddings_batch(["a cat", "a dog"])
    """
    return await awaited(_collected(texts, model, max_workers, options))


async def _collected(
    texts: Iterable[str], model: str | None, max_workers: int | Literal["auto"], options: EmbeddingsOptions
) -> BatchResults:
    await asyncio.to_thread(_litellm.load)
    return await embeddings_batch(texts, model, max_workers, **options).collect()
