"""`llmbatch run`: a file of prompts in, a file of answers out, now."""

# ruff: noqa: D301 - click takes \b for "keep these lines as they are"

from __future__ import annotations

import json
import sys
import time
from array import array
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from llmbatch.cli._inputs import checked_input
from llmbatch.cli._io import emit, input_options, request_arguments, request_options, taken_input_options
from llmbatch.cli._main import BAD_END, INTERRUPTED
from llmbatch.cli._tables import destination

if TYPE_CHECKING:
    from llmbatch._leaves.row import Row
    from llmbatch.cli._inputs import Group, Input
    from llmbatch.cli._tables import Destination

__all__ = ["run"]


@click.command()
@click.argument("source", metavar="IN", type=click.Path(exists=True, dir_okay=False, allow_dash=True))
@click.option(
    "-o",
    "--output",
    metavar="OUT",
    type=click.Path(dir_okay=False, allow_dash=True, path_type=Path),
    help="Where the answers go: JSONL, CSV or Parquet by its suffix, - for stdout. Needed unless --dry-run.",
)
@input_options
@request_options
@click.option(
    "--schema",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="JSON schema file that answers must match.",
)
@click.option("-w", "--max-workers", default="10", show_default=True, help='Requests in flight at most, or "auto".')
@click.option("--rpm", type=float, help="Requests a minute never to exceed; else learnt from the provider.")
@click.option("--tpm", type=float, help="Tokens a minute never to exceed; else learnt from the provider.")
@click.option("--retries", type=int, default=6, show_default=True, help="Faults that a row survives.")
@click.option("--timeout", type=float, default=600.0, show_default=True, help="Seconds for one attempt.")
@click.option("--deadline", type=float, help="Seconds for everything; rows not done by then fail.")
@click.option("--max-cost", type=float, help="USD never to exceed in this run.")
@click.option(
    "--fallback", "fallbacks", multiple=True, metavar="MODEL", help="Model to try when a row fails; repeatable."
)
@click.option("-q", "--quiet", is_flag=True, help="No progress bar.")
@click.option("--dry-run", is_flag=True, help="Show the first payload and an estimate; send nothing.")
def run(source: str, output: Path | None, dry_run: bool, **options: Any) -> None:
    """Answer the rows of IN ("-" is standard input) and write them to OUT, one batch output line a row.

    IN is JSONL with lines {"messages": [...]}, {"prompt": "..."} or OpenAI's batch lines, or CSV or Parquet with
    --template or --column. While it runs, OUT is its checkpoint (OUT.jsonl beside a table, none for stdout): the same
    command goes on where a killed one stopped, and sends again only what failed. In the end OUT has the order of IN. A
    batch line's own parameters are sent as they are; those of the command line win over them.

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
    with checked_input(source, **taken_input_options(options)) as rows:
        batches = _Batches(rows, options)
        if output is None or dry_run:
            emit(batches.preview())
        else:
            with destination(output) as to:
                code = _answer(batches, to)
            sys.exit(code)


class _Batches:
    """The groups of the input, with the arguments that each is sent with."""

    def __init__(self, rows: Input, options: dict[str, Any]) -> None:
        self.rows = rows
        asked = {name: options.pop(name) for name in ("model", "temperature", "max_tokens", "api_base", "params")}
        self._request = request_arguments(**asked)
        if (schema := options.pop("schema")) is not None:
            self._request["response_format"] = _response_format(schema)
        said = {name for name, value in asked.items() if value is not None}
        said |= self._request.keys() - asked.keys() | {param.partition("=")[0] for param in asked["params"]}
        self._said = {name: value for name, value in self._request.items() if name in said}
        """What the command line says itself, defaults left out."""
        workers = options.pop("max_workers")
        self._options = {
            "max_workers": int(workers) if workers.isdecimal() else workers,
            "requests_per_minute": options.pop("rpm"),
            "tokens_per_minute": options.pop("tpm"),
            "progress": False if options.pop("quiet") else None,
            **options,
        }
        if options["max_cost"] is not None and len(rows.groups) > 1:
            msg = (
                f"--max-cost holds for lines with the same parameters, and IN has {len(rows.groups)} sets of them; "
                "make one file of each"
            )
            raise ValueError(msg)

    def _arguments(self, group: Group) -> dict[str, Any]:
        if group.params is None:
            return self._request
        return {**group.params, **self._said}

    def send(self, group: Group, output: Path) -> Any:
        """The group's rows as they finish, `(index, row)`."""
        from llmbatch.completions import as_completed  # noqa: PLC0415 - imports litellm

        given = self._arguments(group) | self._options | {"checkpoint": output}
        return as_completed(group, custom_ids=group.custom_ids or None, **given)

    def preview(self) -> dict[str, Any]:
        """The first payload, None where the provider has no batch lines, and an estimate for each group."""
        from llmbatch.estimate import estimate_batch  # noqa: PLC0415 - imports litellm
        from llmbatch.payloads import render_batch_requests  # noqa: PLC0415 - likewise

        first, payload = next(iter(self.rows.groups), None), None
        if first is not None:
            with closing(iter(first)) as conversations:
                one = next(conversations)
            try:
                (payload,) = render_batch_requests(
                    [one], custom_ids=first.custom_ids[:1] or None, **self._arguments(first)
                )
            except NotImplementedError as exc:
                click.echo(f"No payload to show: {exc}", err=True)
        estimates = [estimate_batch(group, **self._arguments(group)).to_dict() for group in self.rows.groups]
        refused = [f"{custom_id}: {problem}" for _, custom_id, problem in self.rows.refused]
        return {"payload": payload, "estimates": estimates, "refused": refused}


def _answer(batches: _Batches, to: Destination) -> int:
    """Send everything, and return the exit code."""
    from llmbatch._leaves.sums import failures_text  # noqa: PLC0415
    from llmbatch.cli._output import answered, arrange  # noqa: PLC0415 - `--help` needs none of it
    from llmbatch.errors import CheckpointError  # noqa: PLC0415

    tally = _Tally(batches.rows)
    path = to.journal
    try:
        before = answered(path)
        for group in batches.rows.groups:
            with closing(batches.send(group, path)) as finished:
                for index, row in finished:
                    tally.add(group.positions[index], row)
        path.parent.mkdir(parents=True, exist_ok=True)
        arranged = arrange(path, tally.custom_ids, tally.unsent)
        to.finish()
    except CheckpointError as exc:
        raise ValueError(str(exc)) from exc
    except KeyboardInterrupt:
        where = f"are in {to.name}; the same command goes on" if to.resumable else "have been written"
        click.echo(
            f"{failures_text(tally.sums)}Interrupted: {tally.sums.rows} of {batches.rows.count} rows {where}.", err=True
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

    def __init__(self, rows: Input) -> None:
        from llmbatch._leaves.row import error_row  # noqa: PLC0415 - `--help` needs none of it
        from llmbatch._leaves.sums import Tally  # noqa: PLC0415

        self.custom_ids = [""] * rows.count
        self.unsent: list[Row] = []
        self.sums = Tally()
        self._seconds = array("d")
        self._started = time.perf_counter()
        for position, custom_id, problem in rows.refused:
            self.add(position, error_row(type="InvalidRow", message=problem, model=None, custom_id=custom_id))

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
        schema = json.loads(path.read_text(encoding="utf-8"))
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
