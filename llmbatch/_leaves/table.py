"""A list of rows as HTML for a notebook: what failed first, then some rows, the failed ones wherever they stand."""

from __future__ import annotations

from html import escape
from itertools import chain, islice, zip_longest
from typing import TYPE_CHECKING

from llmbatch._leaves.row import CUT_OFF, finish_reasons, refusal_text, row_text, row_vector
from llmbatch._leaves.sums import Tally

if TYPE_CHECKING:
    from collections.abc import Sequence

    from llmbatch._leaves.row import Row

_FAILED, _ROWS, _LONGEST = 5, 10, 200
_COLUMNS = ("", "answer", "model", "tokens", "cost", "seconds")
_RED = " style='color:#b00020'"


def table(rows: Sequence[Row], totals: str) -> str:
    """The totals, the failures by kind, and a table of at most ten rows."""
    failures = "".join(f"<li>{escape(str(found))}</li>" for found in Tally(rows).failures)
    failures = f"<ul{_RED}>{failures}</ul>" if failures else ""
    head = "".join(f"<th>{name}</th>" for name in _COLUMNS)
    shown = chosen(rows, _FAILED, _ROWS)
    body = "".join(_row(at, rows[at]) for at in shown)
    more = f"<p>… and {len(rows) - len(shown):,} more rows</p>" if len(rows) > len(shown) else ""
    return (
        f"<div class='llmbatch'>{failures}<p>{escape(totals)}</p>"
        f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>{more}</div>"
    )


def chosen(rows: Sequence[Row], most_failed: int, most: int, step: int = 1) -> list[int]:
    """The first failed rows, the kinds taking turns, and then each `step`th of all."""
    kinds: dict[str, list[int]] = {}
    for at, row in enumerate(rows):
        if "error" in row:
            kinds.setdefault(row["error_details"]["type"], []).append(at)
    failed = (at for turn in zip_longest(*kinds.values()) for at in turn if at is not None)
    places = dict.fromkeys(chain(islice(failed, most_failed), range(0, len(rows), step)))
    return sorted(islice(places, most))


def shown_text(row: Row) -> str:
    """The error, the answer's text, or what stands for an answer without one."""
    return row["error"] if "error" in row else row_text(row) or _instead(row)


def _instead(row: Row) -> str:
    if (vector := row_vector(row)) is not None:
        return f"[vector of {len(vector)} numbers]"
    message = (row.get("choices") or [{}])[0].get("message") or {}
    if message.get("tool_calls"):
        return "[tool calls]"
    return f"[{refusal_text(message) or 'no text: ' + ', '.join(finish_reasons(row))}]"


def _row(at: int, row: Row) -> str:
    text = shown_text(row)
    text = text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"
    if CUT_OFF in finish_reasons(row):
        text += " [cut off at max_tokens]"
    cost, seconds = row.get("cost"), row.get("elapsed")
    cells = (
        str(at),
        text,
        str(row.get("model") or ""),
        str((row.get("usage") or {}).get("total_tokens", "")),
        "" if cost is None else f"${cost:.6f}",
        "" if seconds is None else f"{seconds:.2f}",
    )
    tds = "".join(f"<td style='text-align:left'>{escape(cell)}</td>" for cell in cells)
    return f"<tr{_RED if 'error' in row else ''}>{tds}</tr>"
