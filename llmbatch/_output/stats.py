"""Statistics over rows, and their text: failures by type and reason, times, tokens and cost."""

from __future__ import annotations

import math
import re
from array import array
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from llmbatch._rows.failure_type import FailureType
from llmbatch._rows.finish_reasons import has_plain_end, is_filtered, is_truncated, unknown_reasons
from llmbatch._rows.row import NO_USAGE, Row, add_usage

_NAMED = 5
_REASONS = 10  # groups of one failure type; the rest of its rows are counted together
_REASON_LENGTH = 200  # characters of a message that tell its reason from another
# Quoted values, and words with digits (numbers, ids): they differ from row to row where the reason is the same.
_VARYING = re.compile(r"'[^']*'|\"[^\"]*\"|`[^`]*`|[\w.-]*\d[\w.-]*")
# What befalls rows because others failed, or the caller's own limit was reached: never the root cause.
UNSENT = {FailureType.NOT_SENT, FailureType.CANCELLED, FailureType.DEADLINE_EXCEEDED, FailureType.BUDGET_EXCEEDED}

# Why a run ends before all rows are done, and how to continue: the causes in the order in which they matter.
_ENDED_EARLY = {
    "NotSent": ("not sent, since earlier rows failed for a reason that affects every row", "Fix it and run again"),
    "BudgetExceeded": ("not sent, since max_cost does not allow for more", "Raise max_cost and run again"),
    "DeadlineExceeded": ("not done when the deadline passed", "Run again, with a longer deadline if need be"),
    "Cancelled": ("not done when the run was interrupted", "Run again"),
}


@dataclass(slots=True)
class Failures:
    """The failed rows of one type and reason: how many, the first one's message, the numbers of the first few."""

    type: str
    message: str
    count: int = 0
    rows: list[int] = field(default_factory=list)

    def __str__(self) -> str:
        named = ", ".join(map(str, self.rows)) + (", …" if self.count > len(self.rows) else "")
        where = f" (row{'' if self.count == 1 else 's'} {named})" if self.rows else ""
        return f"{self.count:,} {self.type}{where}: {self.message}"


class RunStats:
    """Statistics over rows, counted as they come, in 8 bytes per row.

    Attributes:
        rows: number of rows.
        usage: tokens, with `prompt_tokens_details` and `completion_tokens_details` where given.
        unpriced: rows that may have cost money but have no known price.
        truncated: rows with an answer cut off at a token limit.
        filtered: rows whose answer a content filter withheld or cut.
        unknown_reasons: rows by a finish reason that llmbatch does not know, and takes for complete.
        rechecked: rows found in the checkpoint that no longer passed, and were sent again.
        resumed: rows found in the checkpoint.
        sent: rows that this run has sent.
        spent: USD of the priced rows that were not found in the checkpoint.
        lanes: rows by lane.
        saved: USD that rows of a batch job or of the flex tier cost less than live rows.
        seconds: the time of each answer, where known.
    """

    def __init__(self, rows: Iterable[Row] = ()) -> None:
        self.rows = self.unpriced = self.truncated = self.filtered = self.resumed = self.rechecked = self.sent = 0
        self.unknown_reasons: Counter[str] = Counter()
        self.usage: dict[str, Any] = dict(NO_USAGE)
        self.spent = self.saved = 0.0
        self.lanes: Counter[str] = Counter()
        self.seconds = array("d")
        self._cost, self._any_price = 0.0, False
        self._any_saving = False
        self._failures: dict[str, dict[str, Failures]] = {}
        for row in rows:
            self.add(row)

    def add(self, row: Row) -> None:
        """Count a row."""
        self.rows += 1
        add_usage(self.usage, row.get("usage"))
        resumed = row.get("resumed", False)
        self.resumed += resumed
        self.sent += not resumed and row.get("attempts", 0) > 0
        self.lanes[row.get("lane", "live")] += 1
        self.saved += row.get("saved") or 0.0
        self._any_saving |= "saved" in row
        if not has_plain_end(row):
            self.truncated += is_truncated(row)
            self.filtered += is_filtered(row)
            self.unknown_reasons.update(unknown_reasons(row))
        self.rechecked += bool(row.get("rechecked"))
        if "error" in row:
            self._add_failure(row)
        elif (elapsed := row.get("elapsed")) is not None:
            self.seconds.append(elapsed)
        cost = row.get("cost")
        if cost is None:
            self.unpriced += 1
        else:
            self._cost += cost
            self.spent += 0.0 if resumed else cost
            self._any_price |= "error" not in row

    def _add_failure(self, row: Row) -> None:
        kind = row["error_details"]["type"]
        message = row["error"].removeprefix(f"{kind}: ")
        groups = self._failures.setdefault(kind, {})
        reason = _VARYING.sub("…", message[:_REASON_LENGTH])
        if reason not in groups and len(groups) >= _REASONS:
            reason, message = "", f"other reasons, such as: {message}"
        found = groups.setdefault(reason, Failures(kind, message))
        found.count += 1
        if (index := row["error_details"].get("index")) is not None:
            found.rows = sorted([*found.rows, index])[:_NAMED]

    @property
    def failures(self) -> list[Failures]:
        """The failed rows by type and reason: the most frequent first, consequences of other failures last."""
        found = [failures for groups in self._failures.values() for failures in groups.values()]
        return sorted(found, key=lambda failures: (failures.type in UNSENT, -failures.count))

    @property
    def errors(self) -> dict[str, int]:
        """How many rows failed, by type, in the order of `failures`."""
        counts = {kind: sum(found.count for found in groups.values()) for kind, groups in self._failures.items()}
        return dict(sorted(counts.items(), key=lambda item: (item[0] in UNSENT, -item[1])))

    @property
    def failed(self) -> int:
        """Number of failed rows."""
        return sum(self.errors.values())

    @property
    def answered(self) -> int:
        """Number of rows that this run answered."""
        return self.rows - self.failed - self.resumed

    @property
    def cost(self) -> float | None:
        """USD of the priced rows; None if no answered row has a price and some row may have cost money."""
        return None if self.unpriced and not self._any_price else self._cost

    @property
    def latency(self) -> dict[str, float] | None:
        """Seconds that answers took, as `p50`, `p95`, `p99` and `max` (nearest rank); None without an answer."""
        ordered = sorted(self.seconds)
        if not ordered:
            return None
        ranks = {f"p{percent}": math.ceil(percent / 100 * len(ordered)) for percent in (50, 95, 99)}
        return {name: ordered[rank - 1] for name, rank in ranks.items()} | {"max": ordered[-1]}

    def as_dict(self) -> dict[str, Any]:
        """Return the numbers as JSON."""
        return {
            "rows": self.rows,
            "succeeded": self.rows - self.failed,
            "failed": self.failed,
            "errors": self.errors,
            "truncated": self.truncated,
            "filtered": self.filtered,
            "resumed": self.resumed,
            "usage": self.usage,
            "cost": self.cost,
            "unpriced": self.unpriced,
            "latency": self.latency,
            "ended_early": ended_early_text(self).strip() or None,
        }

    def cost_text(self, digits: int) -> str:
        """Return the cost as text."""
        if self.cost is None:
            return "unknown (no known price)"
        return f"${self.cost:.{digits}f}" + (f" ({self.unpriced} rows without a known price)" if self.unpriced else "")

    def notes(self, digits: int) -> str:
        """What else there is to say, `""` for nothing: savings, answers cut off, this run's share of a resumed one."""
        cut = f"; {self.truncated:,} cut off at max_tokens" if self.truncated else ""
        cut += f"; {self.filtered:,} stopped by a content filter" if self.filtered else ""
        for reason, count in self.unknown_reasons.items():
            cut += f"; unknown finish_reason {reason!r} taken for complete ({count:,} times)"
        if self.rechecked:
            cut += f"; {self.rechecked:,} rows in the checkpoint no longer passed the checks and were sent again"
        if cheaper := [f"{self.lanes[lane]:,} {lane}" for lane in ("job", "flex") if self.lanes[lane]]:
            saved = f" saved ${self.saved:.{digits}f} against live prices" if self._any_saving else ""
            cut = f"; {', '.join(cheaper)} rows{saved}{cut}"
        if not self.resumed:
            return cut
        spent = "" if self.cost is None else f" for ${self.spent:.{digits}f}"
        return f"{cut}; {self.resumed:,} rows were in the checkpoint, this run sent {self.sent:,}{spent}"


def failures_text(row_stats: RunStats) -> str:
    """Return why the run ended early, if it did, and a line for each type and reason of failures."""
    if not row_stats.failed:
        return ""
    lines = "".join(f"  {failures}\n" for failures in row_stats.failures)
    return f"{ended_early_text(row_stats)}{row_stats.failed:,} of {row_stats.rows:,} rows failed:\n{lines}"


def ended_early_text(row_stats: RunStats) -> str:
    """Return a line on why rows were not sent or not finished, and how to continue; `""` if all were."""
    for kind, (why, fix) in _ENDED_EARLY.items():
        if count := row_stats.errors.get(kind):
            rows = "1 row was" if count == 1 else f"{count:,} rows were"
            return f"Ended early: {rows} {why}. {fix}; with checkpoint= only the missing rows are sent.\n"
    return ""


def failures_line(rows: Iterable[Row]) -> str:
    """The types and reasons of failures among these rows in one line."""
    return "; ".join(map(str, RunStats(rows).failures))


def latency_text(found: Mapping[str, float] | None) -> str:
    """Return the latency as text, `""` if there is none."""
    return "" if found is None else "; latency: " + ", ".join(f"{name} {value:.2f}s" for name, value in found.items())
