"""What is known of a run besides its rows: its id, when it was, how its attempts went, and what limited it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from llmbatch._output.stats import RunStats

# A line about retries or limits is shown for runs of at least this many seconds, or with a retry or a 429.
_WORTH_EXPLAINING_SECONDS = 10.0
_SHOWN_SECONDS = 0.05
_SECONDS = {
    "answering": "in answers",
    "waiting_for_limits": "waiting for limits",
    "backing_off": "between retries",
    "waiting_for_server": "waiting for the server",
}


@dataclass(frozen=True, slots=True)
class RunInfo:
    """A run.

    Attributes:
        batch_id: the id that its lines in the log have.
        started_at: UTC, as ISO 8601.
        command: the command line of `llmbatch`, or the name of the script; "" if unknown.
        counts: number of attempts, retries by cause and 429s, and seconds by what they were spent on.
        limited_by: what kept the run from being faster, in a line; "" if unknown.
        cpu_seconds: CPU time of llmbatch's event loop.
    """

    batch_id: str = ""
    started_at: str = ""
    command: str = ""
    counts: dict[str, Any] = field(default_factory=dict)
    limited_by: str = ""
    cpu_seconds: float | None = None

    def stats(self, row_stats: RunStats, elapsed: float, limits: str) -> dict[str, Any]:
        """Return the run in numbers, as JSON."""
        return {
            "batch_id": self.batch_id,
            "started_at": self.started_at,
            "elapsed": round(elapsed, 3),
            **row_stats.as_dict(),
            **self.counts,
            "cpu_seconds": self.cpu_seconds,
            "limits": limits,
            "limited_by": self.limited_by,
        }

    def lines(self, rows: int, elapsed: float) -> str:
        """Return lines on attempts and limits that the totals do not show; `""` where there is nothing to explain."""
        text, counts = "", self.counts
        if not counts:
            return ""
        for name, its in counts.get("deployments", {}).items():
            latency = "" if its["p50"] is None else f", p50 {its['p50']:.2f}s"
            errors = "".join(f", {count:,} {kind}" for kind, count in its["errors"].items())
            text += f"\n  deployment {name}: {its['answers']:,} answers{latency}, {its['rate_limited']:,} 429s{errors}"
        retries = sum(counts["retries"].values())
        if retries:
            causes = ", ".join(f"{count:,} {cause}" for cause, count in counts["retries"].items())
            text += f"\n  {counts['attempts']:,} requests for {rows:,} rows; retried: {causes}"
        if elapsed >= _WORTH_EXPLAINING_SECONDS or counts["rate_limited"]:
            spent = [
                f"{value:,.1f} s {_SECONDS[name]}"
                for name, value in counts["seconds"].items()
                if value >= _SHOWN_SECONDS
            ]
            text += f"\n  all requests together: {', '.join(spent)}" if spent else ""
            text += f"\n  limited by: {self.limited_by}" if self.limited_by else ""
        return text
