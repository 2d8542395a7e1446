"""A list of rows as HTML for a notebook: what failed first, then some rows, the failed ones wherever they stand."""

from __future__ import annotations

from html import escape
from itertools import chain, islice
from typing import TYPE_CHECKING

from llmbatch._leaves.row import CUT_OFF, finish_reasons, refusal_text, row_text, row_vector
from llmbatch._leaves.sums import Tally

if TYPE_CHECKING:
    from collections.abc import Sequence

    from llmbatch._leaves.row import Row

__all__ = ["table"]

_FAILED, _ROWS, _LONGEST = 5, 10, 200
_COLUMNS = ("", "answer", "model", "tokens", "cost", "seconds")
_RED = " style='color:#b00020'"


def table(rows: Sequence[Row], totals: str) -> str:
    """The totals, the failures by kind, and a table of at most ten rows."""
    failures = "".join(f"<li>{escape(str(found))}</li>" for found in Tally(rows).failures)
    failures = f"<ul{_RED}>{failures}</ul>" if failures else ""
    head = "".join(f"<th>{name}</th>" for name in _COLUMNS)
    shown = _shown(rows)
    body = "".join(_row(at, rows[at]) for at in shown)
    more = f"<p>… and {len(rows) - len(shown):,} more rows</p>" if len(rows) > len(shown) else ""
    return (
        f"<div class='llmbatch'>{failures}<p>{escape(totals)}</p>"
        f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>{more}</div>"
    )


def _shown(rows: Sequence[Row]) -> list[int]:
    """The first failed rows of each kind, one after the other, and then the first of all."""
    kinds: dict[str, list[int]] = {}
    for at, row in enumerate(rows):
        if "error" in row:
            kinds.setdefault(row["error_details"]["type"], []).append(at)
    failed = chain(*(places[:1] for places in kinds.values()), *(places[1:_FAILED] for places in kinds.values()))
    chosen = dict.fromkeys(chain(islice(failed, _FAILED), range(len(rows))))
    return sorted(islice(chosen, _ROWS))


def _instead(row: Row) -> str:
    """What to show of an answer without text."""
    if (vector := row_vector(row)) is not None:
        return f"[vector of {len(vector)} numbers]"
    message = (row.get("choices") or [{}])[0].get("message") or {}
    if message.get("tool_calls"):
        return "[tool calls]"
    return f"[{refusal_text(message) or 'no text: ' + ', '.join(finish_reasons(row))}]"


def _row(at: int, row: Row) -> str:
    text = row["error"] if "error" in row else row_text(row) or _instead(row)
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
