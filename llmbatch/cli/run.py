"""`llmbatch run`: a file of prompts in, a file of answers out, now."""

# ruff: noqa: D301 - click takes \b for "keep these lines as they are"

from __future__ import annotations

import sys
import time
from array import array
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from llmbatch._leaves.files import from_json
from llmbatch.cli._inputs import checked_input
from llmbatch.cli._io import emit, input_options, request_arguments, request_options, taken_input_options
from llmbatch.cli._main import BAD_END, INTERRUPTED
from llmbatch.cli._tables import destination

if TYPE_CHECKING:
    from llmbatch._leaves.row import Row
    from llmbatch.cli._inputs import Input
    from llmbatch.cli._tables import Destination


@click.command()
@click.argument("source", metavar="IN", type=click.Path(exists=True, dir_okay=False, allow_dash=True))
@click.option(
    "-o",
    "--output",
    metavar="OUT",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Where the answers go; needed unless --dry-run.",
)
@input_options
@request_options
@click.option(
    "--schema",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="JSON schema file that answers must match.",
)
@click.option("-w", "--max-workers", default="10", show_default=True, help='Requests in flight at most, or "auto".')
@click.option("--processes", default="1", show_default=True, help='Processes that make the calls, or "auto".')
@click.option("--rpm", type=float, help="Requests a minute never to exceed; else learnt from the provider.")
@click.option("--tpm", type=float, help="Tokens a minute never to exceed; else learnt from the provider.")
@click.option("--retries", type=int, default=6, show_default=True, help="Faults that a row survives.")
@click.option("--timeout", type=float, default=600.0, show_default=True, help="Seconds for one attempt.")
@click.option("--deadline", type=float, help="Seconds for everything; rows not done by then fail.")
@click.option("--max-cost", type=float, help="USD never to exceed in this run.")
@click.option(
    "--fallback", "fallbacks", multiple=True, metavar="MODEL", help="Model to try when a row fails; repeatable."
)
@click.option(
    "--reask", type=int, default=0, show_default=True, help="Times to ask again for an answer that was cut off."
)
@click.option("--dedupe", is_flag=True, help="Send lines that ask the very same once.")
@click.option("-q", "--quiet", is_flag=True, help="No progress bar.")
@click.option("--dry-run", is_flag=True, help="Show the first payload and an estimate; send nothing.")
def run(source: str, output: Path | None, dry_run: bool, **options: Any) -> None:
    """Answer the rows of IN ("-" is standard input) and write them to OUT, one batch output line a row.

    IN is JSONL with lines {"messages": [...]}, {"prompt": "..."} or OpenAI's batch lines, or CSV or Parquet with
    --template or --column. While it runs, OUT is its checkpoint (OUT.jsonl beside a table, none for stdout):
    the same command goes on where a killed one stopped, and sends again only what failed. In the end OUT has the order
    of IN. What a line says beside its prompt or messages (model, temperature, ..., metadata to keep) stands before the
    command line. A batch line is sent as it is; only what the command line says itself wins over it.

    \b
    Prints a summary, as JSON on a pipe. Exit codes: 0 all rows answered; 1 some failed (OUT has their errors);
    2 misuse, nothing was sent; 130 interrupted, the same command goes on.

    \b
    Examples:
      llmbatch run prompts.jsonl -o answers.jsonl -m gpt-4o-mini
      llmbatch run reviews.csv --template "Sentiment of: {review}" -o answers.jsonl --max-cost 5
      cat prompts.jsonl | llmbatch run - -o answers.jsonl | jq .cost
      llmbatch run reviews.csv --column review -o answers.parquet
    """
    if output is None and not dry_run:
        msg = "say where the answers go, with -o OUT"
        raise ValueError(msg)
    if output is not None and output.exists() and source != "-" and output.samefile(source):
        msg = "IN and OUT are the same file; the answers need one of their own"
        raise ValueError(msg)
    columns, schema = taken_input_options(options), options.pop("schema")
    asked = {name: options.pop(name) for name in ("model", "temperature", "max_tokens", "api_base", "params")}
    request = request_arguments(**asked)
    if schema is not None:
        request["response_format"] = columns["said"]["response_format"] = _response_format(schema)
    with checked_input(source, **columns) as requests:
        if output is None or dry_run:
            emit(_preview(requests, request))
        else:
            with destination(output) as to:
                code = _answer(requests, request | _options(options), to)
            sys.exit(code)


def _options(options: dict[str, Any]) -> dict[str, Any]:
    """The options of the batch, by their names in Python."""
    counts = {name: options.pop(name) for name in ("max_workers", "processes")}
    return {
        **{name: int(count) if count.isdecimal() else count for name, count in counts.items()},
        "requests_per_minute": options.pop("rpm"),
        "tokens_per_minute": options.pop("tpm"),
        "progress": False if options.pop("quiet") else None,
        **options,
    }


def _preview(requests: Input, arguments: dict[str, Any]) -> dict[str, Any]:
    """The first payload, None where the provider has no batch lines, and an estimate."""
    from llmbatch.estimate import estimate_batch  # noqa: PLC0415 - imports litellm
    from llmbatch.payloads import stream_batch_requests  # noqa: PLC0415 - likewise

    payload = None
    with closing(iter(requests)) as read:
        first = next((asked for asked in read if asked.problem is None), None)
    if first is not None:
        try:
            payload = next(stream_batch_requests([first], **arguments))
        except NotImplementedError as exc:
            click.echo(f"No payload to show: {exc}", err=True)
    estimate = estimate_batch(requests, **arguments).to_dict()
    return {"payload": payload, "estimates": [estimate], "refused": requests.refused}


def _answer(requests: Input, arguments: dict[str, Any], to: Destination) -> int:
    """Send everything, and return the exit code."""
    from llmbatch._leaves.sums import failures_text  # noqa: PLC0415
    from llmbatch.cli._output import answered, arrange  # noqa: PLC0415 - `--help` needs none of it
    from llmbatch.completions import as_completed  # noqa: PLC0415 - imports litellm
    from llmbatch.errors import CheckpointError  # noqa: PLC0415

    tally = _Tally(len(requests))
    path = to.journal
    try:
        before = answered(path)
        with closing(as_completed(requests, **arguments, checkpoint=path)) as finished:
            for index, row in finished:
                tally.add(index, row)
        path.parent.mkdir(parents=True, exist_ok=True)
        arranged = arrange(path, tally.custom_ids, tally.unsent)
        to.finish()
    except CheckpointError as exc:
        raise ValueError(str(exc)) from exc
    except KeyboardInterrupt:
        where = f"are in {to.name}; the same command goes on" if to.resumable else "have been written"
        click.echo(
            f"{failures_text(tally.sums)}Interrupted: {tally.sums.rows} of {len(requests)} rows {where}.", err=True
        )
        return INTERRUPTED
    if arranged.moved:
        click.echo(
            f"{arranged.moved} answers to rows that IN no longer has, or asks anew, went to {to.name}.old", err=True
        )
    if arranged.kept:
        click.echo(f"{arranged.kept} rows failed now and keep the answers of an earlier run in {to.name}", err=True)
    tally.report(to, before)
    return BAD_END if tally.sums.failed else 0


class _Tally:
    """What has become of the rows: their ids in the input's order, counts and sums."""

    def __init__(self, rows: int) -> None:
        from llmbatch._leaves.sums import Tally  # noqa: PLC0415 - `--help` needs none of it

        self.custom_ids = [""] * rows
        self.unsent: list[Row] = []
        self.sums = Tally()
        self._seconds = array("d")
        self._started = time.perf_counter()

    def add(self, position: int, row: Row) -> None:
        from llmbatch._leaves.row import numbered  # noqa: PLC0415

        self.sums.add(numbered(position, row))
        if "error" not in row and (elapsed := row.get("elapsed")) is not None:
            self._seconds.append(elapsed)
        self.custom_ids[position] = row["custom_id"]
        if "error" in row and row["error_details"]["type"] == "InvalidRow":
            self.unsent.append(row)

    def report(self, to: Destination, before: int) -> None:
        """Print the summary: JSON on a pipe, lines on a terminal, what failed first."""
        from llmbatch._leaves.sums import failures_text, latency, latency_text  # noqa: PLC0415

        sums, seconds, found = self.sums, time.perf_counter() - self._started, latency(self._seconds)
        if not sys.stdout.isatty():
            emit({
                "output": to.name,
                "rows": sums.rows,
                "succeeded": sums.rows - sums.failed,
                "failed": sums.failed,
                "errors": sums.errors,
                "failures": list(map(asdict, sums.failures)),
                "truncated": sums.truncated,
                "answered_before": before,
                "resumed": sums.resumed,
                "sent": sums.sent,
                **{name: sums.usage[name] for name in ("prompt_tokens", "completion_tokens", "total_tokens")},
                "cost": sums.cost,
                "spent": None if sums.cost is None else sums.spent,
                "unpriced": sums.unpriced,
                "seconds": round(seconds, 3),
                "latency": found,
            })  # fmt: skip
            return
        click.echo(
            f"{failures_text(sums)}{sums.rows - sums.failed:,} of {sums.rows:,} rows answered in {seconds:.1f} s"
            f"{latency_text(found)}; {sums.usage['total_tokens']:,} tokens; "
            f"cost: {sums.cost_text(4)}{sums.notes(4)}; {to.name}"
        )


def _response_format(path: Path) -> dict[str, Any]:
    """A JSON schema, or a whole response_format, out of a file."""
    try:
        schema = from_json(path.read_text(encoding="utf-8"))
    except ValueError as exc:
        msg = f"{path} is not JSON ({exc})"
        raise ValueError(msg) from None
    if not isinstance(schema, dict):
        msg = f"{path} holds no JSON schema object"
        raise ValueError(msg)  # noqa: TRY004 - a file's fault
    if schema.get("type") in {"json_schema", "json_object", "text"}:
        return schema
    name = str(schema.get("title") or path.stem).replace(" ", "_")
    return {"type": "json_schema", "json_schema": {"name": name, "schema": schema, "strict": True}}
