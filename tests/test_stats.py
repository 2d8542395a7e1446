"""What the summary says of a batch's rows."""

from __future__ import annotations

from typing import Any

from llmbatch._output.stats import RunStats, failures_text
from llmbatch._rows.row import Row, answer_row, error_row


def failed(message: str, kind: str = "request_failed", **details: Any) -> Row:
    return error_row(type=kind, message=message, model="m", custom_id="id", **details)


def test_failures_of_one_type_are_grouped_by_reason() -> None:
    """Numbers, ids and quoted values do not make a reason of their own."""
    words = [
        "Error code: 400 - too long, 300 tokens",
        "Error code: 400 - too long, 12 tokens",
        "Error code: 429 - busy",
    ]
    stats = RunStats([failed(message, index=at) for at, message in enumerate(words)] + [failed("no", "Other", index=3)])
    assert failures_text(stats).splitlines() == [
        "4 of 4 rows failed:",
        "  2 request_failed (rows 0, 1): Error code: 400 - too long, 300 tokens",
        "  1 request_failed (row 2): Error code: 429 - busy",
        "  1 Other (row 3): no",
    ]
    assert stats.errors == {"request_failed": 3, "Other": 1}


def test_failures_of_many_reasons_are_bounded() -> None:
    """What is beyond the first ten reasons of a type is one group."""
    stats = RunStats(failed("x" * length) for length in range(1, 41))
    assert len(stats.failures) == 11
    assert stats.failures[0].count == 30
    assert stats.failures[0].message == f"other reasons, such as: {'x' * 11}"
    assert (stats.failed, stats.errors) == (40, {"request_failed": 40})


def test_savings_without_known_price_are_not_claimed() -> None:
    """Rows of a job are counted, and nothing is said to have been saved."""
    row = answer_row({"choices": [], "model": "m"}, custom_id="id", cost=None, lane="job")
    assert RunStats([row]).notes(4) == "; 1 job rows"
    priced: Row = {**row, "saved": 0.5}
    assert RunStats([row, priced]).notes(4) == "; 2 job rows saved $0.5000 against live prices"
