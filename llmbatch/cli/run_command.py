"""`llmbatch run`: a file of prompts in, a file of answers out."""

# ruff: noqa: D301 - click takes \b for "keep these lines as they are"

from __future__ import annotations

import sys
import time
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Any, get_args

import click

from llmbatch._output.stats import RunStats, failures_text, latency_text
from llmbatch._request.plans import check_key
from llmbatch._rows.failure_type import FailureType
from llmbatch._rows.row import Row
from llmbatch._util.files import from_json
from llmbatch.cli._main import BAD_END, INTERRUPTED, MISUSES, emit, request_options, seconds
from llmbatch.cli._ordered_output import Arranged, arrange
from llmbatch.cli._output_path import Destination, destination
from llmbatch.cli._read_input import Input, requests_of
from llmbatch.options import JOB_LANES, Lane, Transport


def _count(text: str) -> int | str:
    return int(text) if text.isdecimal() else text


def _response_format(_ctx: Any, _param: Any, path: Path | None) -> dict[str, Any] | None:
    """Return the response_format that a file contains, or whose JSON schema it contains."""
    if path is None:
        return None
    try:
        schema = from_json(path.read_text(encoding="utf-8"))
    except ValueError as exc:
        raise ValueError(f"{path} is not JSON ({exc})") from None
    if not isinstance(schema, dict):
        raise ValueError(f"{path} is not a JSON schema: it must be an object")  # noqa: TRY004 - a file's fault
    if schema.get("type") in {"json_schema", "json_object", "text"}:
        return schema
    name = str(schema.get("title") or path.stem).replace(" ", "_")
    return {"type": "json_schema", "json_schema": {"name": name, "schema": schema, "strict": True}}


@click.command()
@click.argument("source", metavar="IN", type=click.Path(exists=True, dir_okay=False, allow_dash=True))
@click.option(
    "-o",
    "--output",
    metavar="OUT",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Output file; required unless --dry-run.",
)
@request_options
@click.option(
    "--schema",
    "response_format",
    callback=_response_format,
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="File with the JSON schema that answers must match.",
)
@click.option(
    "-w",
    "--max-workers",
    type=_count,
    metavar="N",
    default="10",
    show_default=True,
    help='Maximum number of requests in flight, or "auto".',
)
@click.option(
    "--processes",
    type=_count,
    metavar="N",
    default="auto",
    show_default=True,
    help='Worker processes for the calls; "auto" starts them once the CPU limits the run.',
)
@click.option(
    "--transport",
    type=click.Choice(get_args(Transport)),
    default="litellm",
    show_default=True,
    help="How requests are sent: through LiteLLM, or directly (faster; OpenAI-style providers).",
)
@click.option(
    "--rpm", "requests_per_minute", type=float, help="Limit of requests per minute; default: learnt from the provider."
)
@click.option(
    "--tpm", "tokens_per_minute", type=float, help="Limit of tokens per minute; default: learnt from the provider."
)
@click.option("--retries", type=int, default=6, show_default=True, help="Retries per row for 5xx, resets and timeouts.")
@click.option(
    "--server-wait", type=float, default=300.0, show_default=True, help="Seconds to wait for a server that restarts."
)
@click.option("--timeout", type=float, default=600.0, show_default=True, help="Seconds for one attempt.")
@click.option(
    "--deadline",
    type=seconds,
    metavar="TIME",
    help="Time for the whole run, as in 90 (seconds), 45m or 6h; unfinished rows fail.",
)
@click.option(
    "--lane",
    type=click.Choice(get_args(Lane)),
    default="live",
    show_default=True,
    help="Live calls, a batch job (half price), the flex tier, or a batch job until shortly before the deadline and "
    "live calls for the rest.",
)
@click.option("--max-cost", type=float, help="Spending cap in USD, for all runs with this OUT.")
@click.option(
    "--fallback", "fallbacks", multiple=True, metavar="MODEL", help="Model to try when a row fails; repeatable."
)
@click.option(
    "--reask",
    type=int,
    default=0,
    show_default=True,
    help="How often to re-ask after an answer that was cut off or failed the schema.",
)
@click.option("--dedupe", is_flag=True, help="Send identical requests once.")
@click.option("-q", "--quiet", "progress", flag_value=False, type=bool, default=None, help="No progress bar.")
@click.option("--dry-run", is_flag=True, help="Show the first payload and an estimate; send nothing.")
def run(
    source: str, output: Path | None, dry_run: bool, reading: dict[str, Any], arguments: dict[str, Any], **options: Any
) -> None:
    """Answer the rows of IN ("-" is standard input) and write them to OUT, one line per row.

    IN is JSONL with lines {"messages": [...]}, {"prompt": "..."} or OpenAI's batch lines, or CSV, TSV or Parquet with
    --template or --column. Such a table as OUT has IN's columns, and "answer" or the fields of --schema, "error" and
    "cost". OUT is also the checkpoint (OUT.jsonl if OUT is a table; none for standard output): the same
    command resumes an interrupted run and re-sends only failed rows. At the end OUT has the order of IN. A line's own
    parameters (model, temperature, ...) and metadata override the command line. OpenAI's batch lines are sent as they
    are; only options that you give override them.

    \b
    Prints a summary, as JSON on a pipe. Exit codes: 0 all rows answered; 1 some failed (OUT has their errors), or OUT
    could not be finished; 2 misuse, nothing was sent; 130 interrupted, the same command resumes.

    \b
    Examples:
      llmbatch run prompts.jsonl -o answers.jsonl -m gpt-4o-mini
      llmbatch run reviews.csv --template "Sentiment of: {review}" -o answers.jsonl --max-cost 5
      cat prompts.jsonl | llmbatch run - -o answers.jsonl | jq .cost
      llmbatch run reviews.csv --column review -o answers.parquet --limit 20
      llmbatch run prompts.jsonl -o answers.jsonl --lane cheapest --deadline 6h
    """
    if output is None and not dry_run:
        raise ValueError("there is no output file. Name one with -o OUT.")
    if output is not None and output.exists() and source != "-" and output.samefile(source):
        raise ValueError("IN and OUT are the same file. Give the answers a file of their own.")
    if (response_format := options.pop("response_format")) is not None:
        arguments = reading["said"] = {**arguments, "response_format": response_format}
    with requests_of(source, all_good=False, **reading) as requests:
        if not (dry_run or requests.names_models or options["fallbacks"] or "deployments" in arguments):
            check_key(**arguments)
        if output is None or dry_run:
            emit(_preview(requests, arguments, options))
        else:
            row_stats = RunStats()
            try:
                with destination(output) as to:
                    code = _answer(requests, arguments | options, to, row_stats)
            except MISUSES as exc:
                # Before a job is submitted its whole input is taken.
                if not (row_stats.rows or (requests.taken and options["lane"] not in JOB_LANES)):
                    raise
                click.echo(f"Error: {exc}", err=True)
                code = BAD_END
            sys.exit(code)


def _preview(requests: Input, arguments: dict[str, Any], options: dict[str, Any]) -> dict[str, Any]:
    """Return an estimate and the first payload, None if the provider has no batch lines."""
    from llmbatch.estimate import estimate_batch  # noqa: PLC0415 - `--help` needs none of it
    from llmbatch.payloads import stream_batch_requests  # noqa: PLC0415 - `--help` needs none of it

    payload = None
    with closing(iter(requests)) as read:
        first = next((asked for asked in read if asked.problem is None), None)
    if first is not None:
        try:
            payload = next(stream_batch_requests([first], **arguments))
        except NotImplementedError as exc:
            click.echo(f"No payload to show: {exc}", err=True)
    estimate = estimate_batch(requests, **(options | arguments)).to_dict()
    return {"payload": payload, "estimates": [estimate], "refused": requests.refused}


def _answer(requests: Input, arguments: dict[str, Any], to: Destination, row_stats: RunStats) -> int:
    """Send everything, and return the exit code."""
    from llmbatch.completions import as_completed  # noqa: PLC0415 - `--help` needs none of it

    started, path = time.perf_counter(), to.journal
    custom_ids = [""] * len(requests)
    unsent: list[Row] = []
    try:
        before = arrange(path).answers if path.exists() else 0
        with closing(as_completed(requests, **arguments, checkpoint=path)) as finished:
            for index, row in finished:
                row_stats.add(row)
                custom_ids[index] = row["custom_id"]
                if "error" in row and row["error_details"]["type"] == FailureType.INVALID_ROW:
                    unsent.append(row)
        arranged = _finish(to, requests, custom_ids, unsent, arguments.get("response_format"))
    except KeyboardInterrupt:
        from llmbatch._jobs.job_state import job_state_path  # noqa: PLC0415 - `--help` needs none of it

        if (state := job_state_path(path)).exists():
            click.echo(f"The batch job continues at the provider. To end it: llmbatch cancel {state}", err=True)
        where = f"are in {to.name}; the same command resumes" if to.resumable else "have been written"
        click.echo(
            f"{failures_text(row_stats)}Interrupted: {row_stats.rows} of {len(requests)} rows {where}.", err=True
        )
        return INTERRUPTED
    if arranged is not None and arranged.moved:
        click.echo(f"{arranged.moved} answers of changed or removed rows were moved to {to.name}.old", err=True)
    if arranged is not None and arranged.kept:
        click.echo(f"{arranged.kept} rows failed now and keep their answers of an earlier run in {to.name}", err=True)
    _report(row_stats, time.perf_counter() - started, to.name, before, finished.stats)
    return BAD_END if row_stats.failed or arranged is None else 0


def _finish(
    to: Destination, requests: Input, custom_ids: list[str], unsent: list[Row], response_format: Any
) -> Arranged | None:
    """Put the rows in order, and make the table of them; None when that fails, which loses no answer."""
    try:
        arranged = arrange(to.journal, custom_ids, unsent)
        to.finish(requests, custom_ids, response_format)
    except Exception as exc:  # noqa: BLE001 - a full disk, or values that the table's format has no type for
        click.echo(
            f"Error: {to.name} could not be finished ({type(exc).__name__}: {exc}). The answers are in {to.journal}; "
            "the same command tries again, and sends only the rows that failed.",
            err=True,
        )
        return None
    return arranged


# Numbers of the run that the rows do not tell.
_OF_THE_RUN = (
    "batch_id", "started_at", "attempts", "retries", "rate_limited", "cpu_seconds", "limits", "limited_by",
    "ended_early",
)  # fmt: skip


def _report(row_stats: RunStats, elapsed: float, name: str, before: int, stats: dict[str, Any]) -> None:
    """Print the summary: JSON on a pipe, lines on a terminal, failures first."""
    succeeded = row_stats.rows - row_stats.failed
    if sys.stdout.isatty():
        click.echo(
            f"{failures_text(row_stats)}{succeeded:,} of {row_stats.rows:,} rows answered in {elapsed:.1f} s"
            f"{latency_text(row_stats.latency)}; {row_stats.usage['total_tokens']:,} tokens; "
            f"cost: {row_stats.cost_text(4)}{row_stats.notes(4)}; {name}"
        )
        return
    emit({
        "output": name,
        "rows": row_stats.rows,
        "succeeded": succeeded,
        "failed": row_stats.failed,
        "errors": row_stats.errors,
        "failures": list(map(asdict, row_stats.failures)),
        "truncated": row_stats.truncated,
        "filtered": row_stats.filtered,
        "answered_before": before,
        "resumed": row_stats.resumed,
        "sent": row_stats.sent,
        **{name: row_stats.usage[name] for name in ("prompt_tokens", "completion_tokens", "total_tokens")},
        "cost": row_stats.cost,
        "lanes": dict(row_stats.lanes),
        "saved": row_stats.saved,
        "spent": None if row_stats.cost is None else row_stats.spent,
        "unpriced": row_stats.unpriced,
        "seconds": round(elapsed, 3),
        "latency": row_stats.latency,
        **{key: stats[key] for key in _OF_THE_RUN if key in stats},
        "seconds_by_cause": stats.get("seconds"),
    })  # fmt: skip
