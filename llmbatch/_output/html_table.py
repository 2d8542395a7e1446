"""Rows as HTML for a notebook: the failures, the totals, and a table of some rows, failed ones included."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from itertools import chain, islice, zip_longest
from typing import Any

from llmbatch._output.stats import RunStats
from llmbatch._rows.finish_reasons import is_filtered, is_truncated
from llmbatch._rows.row import Row, finish_reasons, refusal_text, row_text, row_vector

_FAILED, _ROWS, _LONGEST = 5, 10, 200
_COLUMNS = ("", "answer", "model", "tokens", "cost", "seconds")
_STOPPED = {"cut off": " [cut off at max_tokens]", "filtered": " [stopped by a content filter]"}
_RED = " style='color:#b00020'"


def table(rows: Sequence[Row], totals: str) -> str:
    """Return the failures by type, the totals, and a table of at most ten rows."""
    failures = "".join(f"<li>{escape(str(found))}</li>" for found in RunStats(rows).failures)
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
    """Return the indices of the rows to show: failed rows, their types in turn, and then every `step`th row."""
    kinds: dict[str, list[int]] = {}
    for at, row in enumerate(rows):
        if "error" in row:
            kinds.setdefault(row["error_details"]["type"], []).append(at)
    failed = (at for turn in zip_longest(*kinds.values()) for at in turn if at is not None)
    places = dict.fromkeys(chain(islice(failed, most_failed), range(0, len(rows), step)))
    return sorted(islice(places, most))


def record(at: int, row: Row, longest: int) -> dict[str, Any]:
    """Return what to show of a row: its error, or the text or kind of its answer, cut to `longest` characters."""
    failed = "error" in row
    stopped = "cut off" if is_truncated(row) else "filtered" if is_filtered(row) else "answered"
    return {
        "at": at,
        "id": row["custom_id"],
        "text": short(row["error"] if failed else row_text(row) or _instead(row), longest),
        "state": "failed" if failed else stopped,
        "model": asked_model(row),
        "tokens": (row.get("usage") or {}).get("total_tokens", 0),
        "cost": row.get("cost"),
        "seconds": row.get("elapsed"),
    }


def short(text: str, longest: int) -> str:
    """Return the text, cut to `longest` characters."""
    return text if len(text) <= longest else text[: longest - 1] + "…"


def asked_model(row: Row) -> str:
    """Return the model by the name that the request used, if that is known."""
    return str(row.get("request_model") or row.get("model") or "")


def _instead(row: Row) -> str:
    if (vector := row_vector(row)) is not None:
        return f"[vector of {len(vector)} numbers]"
    message = (row.get("choices") or [{}])[0].get("message") or {}
    if message.get("tool_calls"):
        return "[tool calls]"
    return f"[{refusal_text(message) or 'no text: ' + ', '.join(finish_reasons(row))}]"


def _row(at: int, row: Row) -> str:
    shown = record(at, row, _LONGEST)
    cells = (
        str(at),
        shown["text"] + _STOPPED.get(shown["state"], ""),
        shown["model"],
        str(shown["tokens"]),
        "" if shown["cost"] is None else f"${shown['cost']:.6f}",
        "" if shown["seconds"] is None else f"{shown['seconds']:.2f}",
    )
    tds = "".join(f"<td style='text-align:left'>{escape(cell)}</td>" for cell in cells)
    return f"<tr{_RED if 'error' in row else ''}>{tds}</tr>"
