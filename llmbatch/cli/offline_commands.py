"""`llmbatch render`, `estimate` and `report`, which send nothing."""

# ruff: noqa: D301 - click takes \b for "keep these lines as they are"

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from llmbatch import Payload
from llmbatch._tables.read_files import json_lines
from llmbatch.cli._main import emit, request_options, seconds, written
from llmbatch.cli._ordered_output import rows_in
from llmbatch.cli._read_input import opened, requests_of
from llmbatch.results import BatchResults


@click.command()
@click.argument("source", metavar="IN", type=click.Path(exists=True, dir_okay=False, allow_dash=True))
@click.option("-o", "--output", type=click.Path(dir_okay=False), help="Output file; default: standard output.")
@click.option("--embeddings", is_flag=True, help="IN has texts to embed, one JSON string per line.")
@request_options
def render(
    source: str, output: str | None, embeddings: bool, reading: dict[str, Any], arguments: dict[str, Any]
) -> None:
    """Write the rows of IN ("-" is standard input) as the lines of a batch file, exactly as they would be sent.

    \b
    Examples:
      llmbatch render prompts.jsonl -m gpt-4o-mini -o batch.jsonl
      echo '"What is 2+2?"' | llmbatch render - | jq .body
      llmbatch render reviews.csv --template "Sentiment of: {review}" --id-column id
      llmbatch render texts.jsonl --embeddings -m text-embedding-3-small
    """
    from llmbatch import payloads  # noqa: PLC0415 - `--help` needs none of it

    if embeddings:
        arguments = {name: value for name, value in arguments.items() if name not in {"temperature", "max_tokens"}}
        with opened(source) as file:
            _write(output, payloads.stream_embeddings_requests((value for _, value in json_lines(file)), **arguments))
    else:
        with requests_of(source, **reading) as requests:
            _write(output, payloads.stream_batch_requests(requests, **arguments))


def _write(output: str | None, made: Iterator[Payload]) -> None:
    from llmbatch.payloads import write_batch_file  # noqa: PLC0415 - `--help` needs none of it

    count = write_batch_file(output, made) if output else written(sys.stdout, made)
    click.echo(f"{count} requests rendered", err=True)


@click.command()
@click.argument("source", metavar="IN", type=click.Path(exists=True, dir_okay=False, allow_dash=True))
@request_options
@click.option(
    "-w", "--max-workers", type=int, default=10, show_default=True, help="Maximum number of requests in flight."
)
@click.option("--rpm", "requests_per_minute", type=float, help="Limit of requests per minute.")
@click.option("--tpm", "tokens_per_minute", type=float, help="Limit of tokens per minute.")
@click.option("--deadline", type=seconds, metavar="TIME", help="Time for the whole run, as in 90 (seconds), 45m or 6h.")
@click.option("--latency", type=float, help="Seconds per answer, such as the p50 of an earlier run.")
def estimate(source: str, reading: dict[str, Any], arguments: dict[str, Any], **pace: Any) -> None:
    """Estimate tokens, cost and time of IN for each lane, without sending anything.

    The lanes are live calls, the provider's flex tier, its batch job, and the cheapest one that meets the deadline.
    Prints a table on a terminal, else JSON.

    \b
    Example:
      llmbatch estimate prompts.jsonl -m gpt-4o-mini --max-tokens 100 --rpm 500 --latency 0.8
    """
    from llmbatch.estimate import estimate_batch  # noqa: PLC0415 - `--help` needs none of it

    with requests_of(source, **reading) as requests:
        found = estimate_batch(requests, **(pace | arguments))
    if sys.stdout.isatty():
        click.echo(str(found))
    else:
        emit(found.to_dict())


@click.command()
@click.argument("answers", metavar="OUT", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("-o", "--output", required=True, type=click.Path(dir_okay=False, path_type=Path), help="The HTML file.")
@click.option("--prompts", metavar="IN", type=click.Path(exists=True, dir_okay=False),
              help="JSONL file with the prompts, in the order of OUT, to show them too.")  # fmt: skip
def report(answers: Path, output: Path, prompts: str | None) -> None:
    """Make an HTML report of OUT (the output of `run`, of a batch job, or a checkpoint), which needs no network.

    It has rows over time, latency, tokens and cost by model, failures with examples, truncated answers, the slowest and
    the most expensive rows, and a searchable table of samples. Needs the `report` extra.

    \b
    Example:
      llmbatch report answers.jsonl -o run.html
    """
    rows = BatchResults(rows_in(answers))
    if prompts is None:
        rows.report(output)
    else:
        with opened(prompts) as file:
            rows.report(output, prompts=[record for _, record in json_lines(file)])
