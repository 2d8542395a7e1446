"""The story of one batch: its first and last lines in the log, its progress in between, and what limited it."""

from __future__ import annotations

import asyncio
import shlex
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmbatch._limits.throttle import Phase
from llmbatch._output.run_info import RunInfo
from llmbatch._output.stats import RunStats
from llmbatch._request.plans import ChatPlan, EmbeddingsPlan
from llmbatch._request.redaction import redacted
from llmbatch._request.run_watch import stated_text
from llmbatch._util.batch_log import BatchTag, enter_batch, logger, row_name
from llmbatch._util.utc import utc_text
from llmbatch.events import BatchStarted
from llmbatch.results import totals

if TYPE_CHECKING:
    from llmbatch._batch.base_run import Run

# Seconds between two lines about the progress of a batch.
PROGRESS_SECONDS = 30.0
# Shares of a run from which on something is what limited it.
_LIMITS_SHARE, _CPU_SHARE, _WORKERS_SHARE = 0.3, 0.85, 0.75
_MAX_COMMAND = 300
_LOGGED_OPTIONS = ("requests_per_minute", "tokens_per_minute", "deadline", "max_cost", "checkpoint", "dedupe", "reask")


class Story:
    """Tells one batch. `begin` and `end` are called on the event loop, and `enter` wherever it goes on."""

    def __init__(self, run: Run, noun: str, plan: ChatPlan | EmbeddingsPlan, row_stats: RunStats) -> None:
        self._run, self._noun, self._plan, self._row_stats = run, noun, plan, row_stats
        self._tag = BatchTag(run.batch_id, plan.target.provider, plan.target.name)
        self._timer: asyncio.TimerHandle | None = None
        self._started, self._cpu = time.perf_counter(), time.thread_time()
        self._started_at = time.time()

    @property
    def elapsed(self) -> float:
        """Seconds since the batch began."""
        return time.perf_counter() - self._started

    def enter(self) -> None:
        """Have what is logged from here on belong to this batch."""
        enter_batch(self._tag)

    def begin(self) -> None:
        """Log the first line."""
        self.enter()
        options, params = self._run.options, self._plan.params
        facts: dict[str, Any] = {
            "batch size": "unknown" if self._run.count is None else self._run.count,
            "max workers": options.max_workers,
            "model": self._plan.target.model,
            "temperature": params.get("temperature"),
            "max tokens": params.get("max_tokens"),
            "provider": self._plan.target.provider,
        }
        facts |= {name.replace("_", " "): getattr(options, name) or None for name in _LOGGED_OPTIONS}
        facts |= {"lane": options.lane if options.lane != "live" else None}
        said = ", ".join(f"{name}: {value}" for name, value in facts.items() if value is not None)
        logger.info("{} batch: {}", self._noun, said)
        self._later()

    def started_event(self) -> BatchStarted:
        """Return the first event."""
        tag = self._tag
        return BatchStarted(batch_id=tag.batch, rows=self._run.count, provider=tag.provider, model=tag.model)

    def end(self) -> RunInfo:
        """Log the last lines, and return what is known of the run."""
        if self._timer is not None:
            self._timer.cancel()
        self._run.watch.close()
        info = RunInfo(
            batch_id=self._run.batch_id,
            started_at=utc_text(self._started_at),
            command=_command(),
            counts=self._run.watch.counts,
            limited_by=self.limited_by(),
            cpu_seconds=round(time.thread_time() - self._cpu, 3),
        )
        logger.info(
            "{} batch finished: {}{}", self._noun, totals(self._row_stats, self.elapsed),
            info.lines(self._row_stats.rows, self.elapsed).replace("\n  ", "; "),
        )  # fmt: skip
        for failures in self._row_stats.failures:
            logger.warning("Failed rows: {}", failures)
        return info

    def limited_by(self) -> str:
        """Return what keeps the batch from being faster, in a line; `""` if nothing was sent."""
        watch, elapsed, workers = self._run.watch, self.elapsed, self._run.options.max_workers
        total = watch.answering + watch.limited + watch.backing_off + watch.held_back
        if not watch.attempts or elapsed <= 0:
            return ""
        many = isinstance(workers, int) and self._row_stats.rows > workers
        busy = isinstance(workers, int) and watch.answering > _WORKERS_SHARE * workers * elapsed
        cpu = time.thread_time() - self._cpu
        reasons = {
            "a server that was not available, or rejected everything": watch.held_back > total / 2,
            self._limits(): watch.limited > _LIMITS_SHARE * total,
            f"pauses between retries ({', '.join(watch.retries)})": watch.backing_off > total / 2,
            "the CPU of this process; processes= or transport='direct' may help": cpu > _CPU_SHARE * elapsed,
            f"concurrency (max_workers={workers}), and the time that answers take": many and busy,
            "slow input, a slow on_result, or the last answers: fewer requests in flight than max_workers": many,
        }
        return next((reason for reason, applies in reasons.items() if applies), "the time that answers take")

    def _limits(self) -> str:
        options = self._run.options
        given = [f"{name}={value:g}" for name in ("requests_per_minute", "tokens_per_minute")
                 if (value := getattr(options, name))]  # fmt: skip
        if given:
            return f"the configured rate limit ({', '.join(given)})"
        for limiter in self._run.watch.limiters:
            if limiter.finding.phase is not Phase.UNTHROTTLED:
                return f"the provider's limit ({limiter.finding.summary})"
            if limiter.stated:
                return f"the rate limit that the provider states ({stated_text(limiter.stated)})"
        return "429s of the provider"

    def _later(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(PROGRESS_SECONDS, self._log_progress)

    def _log_progress(self) -> None:
        run, row_stats = self._run, self._row_stats
        of = "" if run.count is None else f" of {run.count:,}"
        open_rows = {index: outcomes for index, outcomes in run.under_way.items() if outcomes}
        oldest = ""
        if open_rows:
            index = min(open_rows, key=lambda index: open_rows[index][0].begun)
            first = open_rows[index][0]
            attempts = sum(outcome.attempts for outcome in open_rows[index])
            seconds = time.monotonic() - first.begun
            oldest = f"; oldest: {row_name(index, first.custom_id)} for {seconds:.0f} s, {attempts} attempts"
        waiting = sum(limiter.waiting for limiter in run.watch.limiters)
        logger.info(
            "Progress: {:,}{} rows done ({:,} failed), {:,} open, {:,} of them wait for a limit; "
            "{:,} requests, {:,} got 429; limited by: {}{}",
            row_stats.rows, of, row_stats.failed, len(open_rows), waiting, run.watch.attempts, run.watch.throttled,
            self.limited_by() or "nothing yet", oldest,
        )  # fmt: skip
        self._later()


def _command() -> str:
    """Return the command line of llmbatch, or the name of another script, whose arguments may hold keys."""
    name = Path(sys.argv[0]).name if sys.argv else ""
    if name in {"llmbatch", "__main__.py"} and "llmbatch" in sys.argv[0]:
        return redacted(shlex.join(["llmbatch", *sys.argv[1:]]))[:_MAX_COMMAND]
    return "" if name in {"", "-c", "ipykernel_launcher.py", "colab_kernel_launcher.py"} else name
