"""A table in, a table out: `complete_table`."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from contextlib import closing
from typing import Any, Unpack

from llmbatch._tables.in_memory import TableRun
from llmbatch._tables.on_disk import CompletedFile, FileRun, Missing, PathLike
from llmbatch._util.template import RowTemplate
from llmbatch.completions import acreate_chat_completions_batch, as_completed, create_chat_completions_batch
from llmbatch.options import ChatOptions

__all__ = ["CompletedFile", "acomplete_table", "complete_table"]


def complete_table(
    table: Any,
    template: RowTemplate,
    model: str | None = None,
    *,
    output: PathLike | None = None,
    images: str | None = None,
    missing: Missing = "skip",
    details: Sequence[str] = (),
    **options: Unpack[ChatOptions],
) -> Any:
    """Answer each row of a table, and return the same kind of table with the answers as further columns.

    Order, index and types of the table's own columns do not change. The answers are in a column `answer`, or in a typed
    column for each field of `response_format`. A name that the table has already gets a number: `answer_2`. Rows that
    fail have no answer; a warning says how many and why.

    Args:
        table: a DataFrame of pandas, polars or another library that narwhals supports, an Arrow table, a Dataset of
            Hugging Face, a DuckDB relation, a dict of columns, a list of dicts; or the path of a file: `.csv`, `.tsv`,
            `.jsonl` or `.parquet`, also with `.gz` behind it. A file is read row by row, and needs `output`.
        template: the prompt, with the table's columns in braces as for `str.format` ("Summarise: {text}", a struct's
            field as {author.name}), or a function of a row (a dict) that returns its request: a prompt, messages, or a
            dict; None leaves the row out.
        model: LiteLLM's model string; else the environment's MODEL_CHOICE, else gpt-4o-mini.
        output: the path of a file for the completed table, whose suffix is one of those above. Finished rows are kept
            in a checkpoint next to it (`OUTPUT.jsonl`): after an interruption, even by `kill -9`, the same call sends
            only the rows that are missing or failed. The file itself appears when it is complete.
        images: a column with an image for each row, or a list of them: paths, URLs or bytes. Local files are read.
        missing: what to do with a row that has no value in a column of the template: "skip" leaves its answer missing,
            and a warning says how many rows were skipped; "error" raises ValueError before anything is sent.
        details: further columns, of "error", "cost" (USD), "asks", "attempts", "elapsed", "waited", "model",
            "finish_reason", "custom_id", "prompt_tokens", "completion_tokens", "total_tokens".
        options: those of `create_chat_completions_batch`: `response_format`, `system`, `max_tokens`, `max_cost`, ….

    Returns the table, for a file a CompletedFile, and with `dry_run=True` a DryRun. Raises ValueError and TypeError for
    misuse, before anything is sent. Needs the `frames`, `pandas` or `polars` extra.

    Example:
        reviews = {"review": ["Lovely place.", "Never again."]}  # or a DataFrame, or "reviews.csv"
        reviews = complete_table(reviews, "One word for the mood of: {review}", "gpt-4o-mini", details=["cost"])
    """
    how: Any = {"output": output, "images": images, "missing": missing, "details": details, "options": dict(options)}
    if not isinstance(table, str | os.PathLike):
        run = TableRun(table, template, **how)
        return run.finished(create_chat_completions_batch(run.requests, model, **run.options))
    with FileRun(table, template, **how) as file_run:
        if options.get("dry_run") is True:
            return create_chat_completions_batch(file_run.requests, model, **file_run.options)
        with closing(as_completed(file_run.requests, model, **file_run.options)) as rows:
            for index, row in rows:
                file_run.add(index, row)
        return file_run.finished()


async def acomplete_table(
    table: Any,
    template: RowTemplate,
    model: str | None = None,
    *,
    output: PathLike | None = None,
    images: str | None = None,
    missing: Missing = "skip",
    details: Sequence[str] = (),
    **options: Unpack[ChatOptions],
) -> Any:
    """Answer each row of a table; the async version of `complete_table`.

    Example:
        reviews = await acomplete_table({"review": ["Lovely place."]}, "One word for the mood of: {review}")
    """
    how: Any = {"output": output, "images": images, "missing": missing, "details": details, "options": dict(options)}
    if not isinstance(table, str | os.PathLike):
        run = TableRun(table, template, **how)
        return run.finished(await acreate_chat_completions_batch(run.requests, model, **run.options))
    with await asyncio.to_thread(lambda: FileRun(table, template, **how)) as file_run:
        if options.get("dry_run") is True:
            return await acreate_chat_completions_batch(file_run.requests, model, **file_run.options)
        async for index, row in as_completed(file_run.requests, model, **file_run.options):
            file_run.add(index, row)
        return await asyncio.to_thread(file_run.finished)
