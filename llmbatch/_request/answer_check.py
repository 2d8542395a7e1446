"""The failure of an answer that does not count as one (`_rows.finish_reasons` decides which do)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llmbatch._request.failures import Failure, clean
from llmbatch._rows.finish_reasons import answer_problem


def answer_failure(
    body: Mapping[str, Any], provider: str | None = None, request: Mapping[str, Any] | None = None
) -> Failure | None:
    """Return the failure of a broken, empty or filtered answer, None for an answer.

    The provider's explanation is part of the message only if the `request`, which it may quote, is given.
    """
    problem = answer_problem(body)
    if problem is None:
        return None
    detail = clean(problem.detail, request) if problem.detail and request is not None else ""
    return Failure(
        problem.type,
        f"{problem.message}: {detail}" if detail else problem.message,
        200,
        provider,
        retryable=problem.retryable,
        retry_after=0.0 if problem.at_once else None,
        billed=None,
    )
