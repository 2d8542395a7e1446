"""A batch of embeddings: texts are sent in chunks, and every text has a row."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import AsyncGenerator, Iterable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from llmbatch._batch.base_run import Run
from llmbatch._batch.row_builder import failure_row
from llmbatch._batch.transport import sending
from llmbatch._request.budget import Budget
from llmbatch._request.failures import Failure
from llmbatch._request.outcome import Outcome
from llmbatch._request.plans import EmbeddingsPlan
from llmbatch._request.rejections import is_too_large
from llmbatch._rows.failure_type import FailureType
from llmbatch._rows.row import Row, answer_row
from llmbatch._util.batch_log import logger
from llmbatch._util.fan_out import grouped
from llmbatch._util.identity import CustomIds
from llmbatch._util.row_tag import RowTag, enter_row
from llmbatch.options import Options

# Texts per request, by the provider's own limit.
CHUNK_TEXTS = {"openai": 256, "azure": 256, "mistral": 64, "cohere": 96, "voyage": 128, "gemini": 100, "vertex_ai": 5,
               "together_ai": 64, "huggingface": 32, "nvidia_nim": 50, "jina_ai": 128}  # fmt: skip
DEFAULT_CHUNK_TEXTS = 20
CHUNK_CHARACTERS = 400_000
_SPLIT_STATUS = {400, 413, 422}
_AMBIGUOUS = Failure(
    FailureType.AMBIGUOUS_ANSWER, "the answer does not say which of its vectors belongs to the text", 200
)


@dataclass(slots=True)
class _Text:
    """A text to embed, with its index and ids."""

    index: int
    text: str
    custom_id: str
    request_id: str
    prints: dict[str, str]


@dataclass(slots=True)
class _Chunk:
    """Texts for one request, and rows that need no request."""

    texts: list[_Text] = field(default_factory=list)
    rows: list[tuple[int, Row]] = field(default_factory=list)
    characters: int = 0


class EmbeddingsRun(Run):
    """One batch of embeddings."""

    def __init__(
        self, texts: Iterable[Any], count: int | None, plan: EmbeddingsPlan, options: Options, budget: Budget | None
    ) -> None:
        super().__init__(texts, count, options, sending("embed", options), budget)
        self.plan, self.target, self.items = plan, plan.target, self._chunks()
        self._ids = CustomIds()
        self._sender = self.sender_for(plan)
        self._chunk_texts = CHUNK_TEXTS.get(plan.target.provider, DEFAULT_CHUNK_TEXTS)
        if plan.target.api_base is not None:
            self._chunk_texts = min(self._chunk_texts, DEFAULT_CHUNK_TEXTS)

    async def _chunks(self) -> AsyncGenerator[_Chunk]:
        """Yield the texts in chunks. A chunk is smaller if the input pauses, ends or fails."""
        chunk, index = _Chunk(), itertools.count()
        async with contextlib.aclosing(grouped(self.inputs, self._chunk_texts, reading=self._reading)) as groups:
            async for texts in groups:
                for text in texts:
                    self._add(chunk, next(index), text)
                    most = max(len(chunk.texts), len(chunk.rows))
                    if most >= self._chunk_texts or chunk.characters >= CHUNK_CHARACTERS:
                        yield chunk
                        chunk = _Chunk()
                if len(texts) < self._chunk_texts and (chunk.texts or chunk.rows):
                    yield chunk
                    chunk = _Chunk()

    def _add(self, chunk: _Chunk, index: int, text: Any) -> None:
        try:
            request = self.plan.request(text)
        except ValueError as exc:
            failure = Failure(FailureType.INVALID_ROW, str(exc))
            chunk.rows.append((index, failure_row(failure, self.target, self._row_id(index, None))))
            return
        request_id = self._ids(request)
        custom_id = self._row_id(index, request_id)
        prints = self._prints(request)
        row = self._known(request_id, prints, custom_id)
        if row is not None:
            chunk.rows.append((index, row))
        else:
            chunk.texts.append(_Text(index, request["input"], custom_id, request_id, prints))
            chunk.characters += len(request["input"])

    async def _process_item(self, _: int, chunk: _Chunk) -> list[tuple[int, Row]]:
        for text, row in zip(chunk.texts, await self._sent(chunk.texts), strict=True):
            self._record(text.request_id, text.prints, row)
            chunk.rows.append((text.index, row))
        return chunk.rows

    async def _sent(self, texts: list[_Text]) -> list[Row]:
        """Return a row for each text. A rejected chunk is halved until only bad texts fail."""
        if not texts:
            return []
        request = {**self.plan.request(texts[0].text), "input": [text.text for text in texts]}
        first = texts[0].index
        begun = self._begun(*(text.index for text in texts), custom_id=texts[0].custom_id)
        enter_row(RowTag(self.batch_id, first, texts[0].custom_id))
        send = partial(self._sender.send, request, first, self.call_for(first), begun)
        outcome = await self._in_time(send)
        if outcome is None:
            return [self._late_row(text.index, text.custom_id) for text in texts]
        failure = outcome.failure
        if failure is None:
            return await self._matched(texts, outcome)
        if len(texts) > 1 and not failure.shared and _may_be_one_texts(failure):
            half = len(texts) // 2
            halves = await asyncio.gather(self._sent(texts[:half]), self._sent(texts[half:]))
            return [row for rows in halves for row in rows]
        return [failure_row(failure, self.target, text.custom_id, **outcome.spent) for text in texts]

    async def _matched(self, texts: list[_Text], outcome: Outcome) -> list[Row]:
        """Return the rows of an answered chunk. An answer that does not say which vector is whose is rejected."""
        assert outcome.answer is not None  # noqa: S101 - the caller has looked
        items = _items_by_text(outcome.answer.body["data"], len(texts))
        if items is not None:
            return self._rows(texts, outcome, items)
        if len(texts) == 1:
            return [failure_row(_AMBIGUOUS, self.target, texts[0].custom_id, **outcome.spent)]
        if self._chunk_texts > 1:
            logger.warning("The vectors have no distinct indices; sending one text a request")
            self._chunk_texts = 1
        rows = [row for group in await asyncio.gather(*(self._sent([text]) for text in texts)) for row in group]
        for row in rows:
            lost = None if outcome.cost is None else outcome.cost / len(texts)
            row["cost"] = None if lost is None or row["cost"] is None else row["cost"] + lost
            row["attempts"] += outcome.attempts
        return rows

    def _rows(self, texts: list[_Text], outcome: Outcome, items: dict[int, dict[str, Any]]) -> list[Row]:
        """Return the rows of texts whose vectors are known by place; usage and cost are shared out by length."""
        assert outcome.answer is not None  # noqa: S101 - the caller has looked
        body = outcome.answer.body
        tokens = (body.get("usage") or {}).get("prompt_tokens") or 0
        shares = _shares(tokens, [len(text.text) for text in texts])
        rows = []
        for at, text in enumerate(texts):
            share = shares[at] / tokens if tokens else 1 / len(texts)
            spent = {**outcome.spent, "cost": None if outcome.cost is None else outcome.cost * share}
            vector = (items.get(at) or {}).get("embedding")
            if failure := self._vector_failure(vector):
                rows.append(failure_row(failure, self.target, text.custom_id, **spent))
                continue
            usage = {"prompt_tokens": shares[at], "completion_tokens": 0, "total_tokens": shares[at]}
            one = {**body, "data": [{**items[at], "index": 0}], "usage": usage}
            rows.append(answer_row(one, custom_id=text.custom_id, **spent))
        return rows

    def _vector_failure(self, vector: list[Any] | None) -> Failure | None:
        """Return why a vector is not what was asked for, None if it is."""
        if not vector:
            return Failure(FailureType.EMPTY_ANSWER, "the provider's answer has no vector for this text")
        wanted = self.plan.params.get("dimensions")
        if wanted is None or isinstance(vector[0], list) or len(vector) == wanted:
            return None
        words = f"the vector has {len(vector)} numbers: the server ignored dimensions={wanted}; leave dimensions out"
        return Failure(FailureType.WRONG_DIMENSIONS, words, 200)


def _may_be_one_texts(failure: Failure) -> bool:
    """Return whether a rejected chunk may hold good texts: its size or one text's content was rejected."""
    return failure.status_code in _SPLIT_STATUS or is_too_large(failure.message)


def _items_by_text(data: list[dict[str, Any]], texts: int) -> dict[int, dict[str, Any]] | None:
    """Return an answer's items by the place of their texts; None if the answer leaves open whose they are."""
    if texts == len(data) == 1:
        return {0: data[0]}
    data = [item for item in data if item.get("index") is not None or item["embedding"] is not None]
    items = {item.get("index"): item for item in data}
    if len(items) < len(data) or not all(index is not None and 0 <= index < texts for index in items):
        return None
    return items  # type: ignore[return-value]  # no index is None


def _shares(total: int, weights: list[int]) -> list[int]:
    """Return shares of `total` by weight, as whole numbers that add up to it."""
    ends = [total * part // (sum(weights) or 1) for part in itertools.accumulate(weights)]
    return [end - start for start, end in zip([0, *ends], ends, strict=False)]
