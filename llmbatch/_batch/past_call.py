"""What follows a batch: its failed rows once more, and the next turn of its conversations."""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

from llmbatch._request.messages import checked_messages
from llmbatch._request.parsed_request import parse_request
from llmbatch._rows.row import Row, add_spent, numbered
from llmbatch._util.checks import copied
from llmbatch.options import Options
from llmbatch.results import BatchResults

# llmbatch's own options that change neither a request nor where its answer is kept.
_OWN_OPTIONS = frozenset(option.name for option in fields(Options)) - {"system", "checkpoint"}

NextText = str | Callable[[Row], Any]


@dataclass(frozen=True)
class PastCall:
    """The call that has made some results. It may hold keys, and is not shown.

    Attributes:
        collect: the function that answers requests with the call's options and settings.
        options: the call's keyword arguments.
        settings: the call's model, temperature, max_tokens and max_workers.
    """

    collect: Callable[..., Awaitable[Any]] = field(repr=False)
    options: Mapping[str, Any] = field(repr=False)
    settings: tuple[Any, ...] = field(repr=False)

    async def retried(
        self, results: BatchResults, inputs: Sequence[Any], model: str | None, options: Mapping[str, Any]
    ) -> BatchResults:
        """Return the results with the failed rows answered again, in their places."""
        failed = [index for index, row in enumerate(results) if "error" in row]
        if not failed:
            return results
        given = {**self.options, **options}
        sent = self._with_duplicates(failed, inputs, given) if model is None else failed
        if (ids := given.get("custom_ids")) is not None:
            given["custom_ids"] = [list(ids)[index] for index in sent]
        cap = self.options.get("max_cost")
        if cap is not None and "max_cost" not in options and given.get("checkpoint") is None:
            given["max_cost"] = max(cap - (results.cost or 0.0), sys.float_info.min)  # a checkpoint counts by itself
        if callable(on_result := given.get("on_result")):
            again = set(failed)
            given["on_result"] = lambda index, row: on_result(sent[index], row) if sent[index] in again else None
        settings = dict(zip(("model", "temperature", "max_tokens", "max_workers"), self.settings, strict=True))
        settings |= {name: given.pop(name) for name in settings.keys() & given.keys()}
        settings["model"] = settings["model"] if model is None else model
        requests = [_for_model(inputs[index], model) for index in sent]
        made = await self.collect(given, requests, *settings.values())
        if not isinstance(made, BatchResults):
            return made  # type: ignore[no-any-return]  # a dry run
        rows, formats = list(results), dict(results.formats)
        for index, row in zip(sent, made, strict=True):
            before, own = rows[index], row["custom_id"]
            if "error" not in before:
                continue
            if own in made.formats:
                formats[before["custom_id"]] = made.formats[own]
            add_spent(row, before)
            row["custom_id"] = before["custom_id"]
            if "same_as" in row:
                row["same_as"] = sent[row["same_as"]]
            rows[index] = numbered(index, row)
        return BatchResults(
            rows,
            elapsed=results.elapsed + made.elapsed,
            response_format=results.response_format or made.response_format,
            formats=formats,
            limits=made.limits or results.limits,
            sent_as_is=sorted({*results.sent_as_is, *made.sent_as_is}),
            asked=results.asked,
            run=results.run,
            call=self,
        )

    def _with_duplicates(self, failed: list[int], inputs: Sequence[Any], given: Mapping[str, Any]) -> list[int]:
        """Return the failed rows, and with the same checkpoint the rows that are equal to one: they are read from it.

        The checkpoint numbers equal requests by their order, so a failed one alone would get the answer of the first.
        """
        changed = {name for name, value in given.items() if self.options.get(name) != value}
        same = given.get("checkpoint") is not None and changed <= _OWN_OPTIONS
        if not same:
            return failed
        wanted = {repr(inputs[index]) for index in failed}
        return [index for index, request in enumerate(inputs) if repr(request) in wanted]

    def next_turn(self, results: BatchResults, inputs: Sequence[Any], text: NextText) -> list[Any]:
        """Return the requests that continue each conversation, None for rows that have failed."""
        return [_continued(request, row, text) for request, row in zip(inputs, results, strict=True)]


def _for_model(request: Any, model: str | None) -> Any:
    """Return the request, without its own model if another one is to be asked."""
    if model is None:
        return request
    parsed = parse_request(request)
    return replace(parsed, params={name: value for name, value in parsed.params.items() if name != "model"})


def _continued(request: Any, row: Row, text: NextText) -> Any:
    """Return a request of the conversation so far, the answer, and what is said next."""
    if "error" in row or not row["choices"]:
        return None
    said = text(row) if callable(text) else text
    if said is None:
        return None
    parsed, answer = parse_request(request), row["choices"][0].get("message") or {}
    kept = {name: copied(answer[name]) for name in ("content", "tool_calls") if answer.get(name) is not None}
    more = list(said) if isinstance(said, list) and said and isinstance(said[0], Mapping) else [said]
    turns = [item if isinstance(item, Mapping) else {"role": "user", "content": item} for item in more]
    messages = [*checked_messages(parsed.messages), {"role": "assistant", "content": None, **kept}, *turns]
    own = {**parsed.params, **({} if parsed.metadata is None else {"metadata": parsed.metadata})}
    return {"messages": messages, **own} if own else messages
