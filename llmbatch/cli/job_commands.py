"""The commands `llmbatch submit`, `status`, `wait`, `results` and `cancel`: batch jobs, each by its state file."""

# ruff: noqa: D301 - \b tells click to keep the lines of a paragraph

from __future__ import annotations

import sys
from collections.abc import Mapping
from itertools import chain
from pathlib import Path
from typing import Any, NoReturn

import click

from llmbatch._output.jsonl import line_from_row
from llmbatch._tables.read_files import json_lines
from llmbatch.cli._main import BAD_END, NOT_YET, emit, request_options, written
from llmbatch.cli._output_path import table_kind, write_table
from llmbatch.cli._read_input import input_kind, requests_of
from llmbatch.jobs import BatchJob


def _load(_ctx: Any, _param: Any, state: str) -> BatchJob:
    from llmbatch.jobs import BatchJob  # noqa: PLC0415 - `--help` needs none of it

    return BatchJob.load(state)


_job = click.argument("job", metavar="STATE", type=click.Path(exists=True, dir_okay=False), callback=_load)


@click.command()
@click.argument("source", metavar="IN", type=click.Path(exists=True, dir_okay=False))
@click.option("-s", "--state", help="The job's state file (default: IN.job.json).")
@click.option("--window", "completion_window", default="24h", show_default=True, help="How long the provider may take.")
@click.option("--max-rows", type=int, help="Maximum number of lines in an input file (default: the provider's limit).")
@request_options
def submit(source: str, state: str | None, reading: dict[str, Any], arguments: dict[str, Any], **options: Any) -> None:
    """Submit the rows of IN, or the lines that `render` wrote, as a batch job.

    After an interruption, the same command with the same files continues the submission. It never submits twice.

    \b
    Examples:
      llmbatch submit prompts.jsonl -m gpt-4o-mini
      llmbatch submit batch.jsonl --state job.json && llmbatch wait job.json
    """
    from llmbatch.jobs import submit_batch_job  # noqa: PLC0415 - `--help` needs none of it

    arguments = {**arguments, **options, "state": state or f"{source}.job.json"}
    chosen = reading["limit"] or reading["sample"]
    if not chosen and reading["kind"] in {None, "jsonl"} and _has_payloads(source):
        job = submit_batch_job(source, **arguments)
    else:
        with requests_of(source, **reading) as requests:
            job = submit_batch_job(requests, **arguments)
    emit(_summary(job))


def _has_payloads(source: str) -> bool:
    if input_kind(source) != "jsonl":
        return False
    with Path(source).open("rb") as file:
        _, first = next(json_lines(file), (0, None))
    return isinstance(first, Mapping) and {"custom_id", "body"} <= first.keys()


@click.command()
@_job
def status(job: BatchJob) -> None:
    """Show the status of a job.

    Exit code 0 if it has completed, 3 while it is running, 1 if it failed, expired or was cancelled.

    \b
    Example:
      llmbatch status job.json | jq .status
    """
    _print_status(job.refresh())


@click.command()
@_job
@click.option("--poll", type=float, default=5.0, show_default=True, help="Seconds of the first pause.")
@click.option("--timeout", type=float, help="Maximum number of seconds to wait; the job continues.")
def wait(job: BatchJob, poll: float, timeout: float | None) -> None:
    """Wait until a job has ended, with a progress bar on a terminal. The exit codes are those of `status`.

    \b
    Example:
      llmbatch wait job.json --timeout 3600 && llmbatch results job.json -o answers.jsonl
    """
    try:
        job.wait(poll, timeout)
    except TimeoutError as exc:
        click.echo(f"Error: {exc}", err=True)
    _print_status(job)


@click.command()
@_job
@click.option(
    "-o",
    "--output",
    type=click.Path(dir_okay=False, allow_dash=True, path_type=Path),
    default="-",
    help="The file to write: JSONL, CSV or Parquet by its suffix, - for stdout.",
)
@click.option("--text", is_flag=True, help="Write only the answers' texts, as JSON strings; null for a failed row.")
def results(job: BatchJob, output: Path, text: bool) -> None:
    """Write the rows of an ended job, in the order of the input, as OpenAI's batch output lines.

    Exit code 1 if rows failed, 3 while the job is running.

    \b
    Examples:
      llmbatch results job.json -o answers.jsonl
      llmbatch results job.json --text | head
    """
    if not job.refresh().ended:
        click.echo(f"Error: job {job.id} is {job.status}. Run `llmbatch wait {job.path}` first", err=True)
        sys.exit(NOT_YET)
    rows = job.results()
    if table_kind(output):
        write_table(output, rows)
    else:
        with click.open_file(str(output), "w", encoding="utf-8") as file:
            written(file, rows.texts if text else (line_from_row(row) for row in rows))
    click.echo(rows.summary(), err=True)
    sys.exit(BAD_END if rows.failed else 0)


@click.command()
@_job
def cancel(job: BatchJob) -> None:
    """Ask the provider to end a job. Answers that it has by then are kept and charged.

    \b
    Example:
      llmbatch cancel job.json && llmbatch wait job.json; llmbatch results job.json
    """
    emit(_summary(job.cancel()))


def _summary(job: BatchJob) -> dict[str, Any]:
    return {
        "id": job.id,
        "status": job.status,
        "rows": len(job),
        "request_counts": job.request_counts,
        "batch_ids": job.batch_ids,
        "errors": list(chain.from_iterable(file.errors for file in job.state.input_files)),
        "state": str(job.path),
    }


def _print_status(job: BatchJob) -> NoReturn:
    """Print the status of a job, and exit with its code."""
    emit(_summary(job))
    sys.exit(NOT_YET if not job.ended else 0 if job.status == "completed" else BAD_END)
