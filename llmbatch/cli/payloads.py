"""`llmbatch render` and `llmbatch estimate`: nothing is sent."""

# ruff: noqa: D301 - click takes \b for "keep these lines as they are"

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

from llmbatch.cli._inputs import json_lines, opened, requests_of
from llmbatch.cli._io import emit, request_options, written

if TYPE_CHECKING:
    from collections.abc import Iterator

    from llmbatch import Payload


@click.command()
@click.argument("source", metavar="IN", type=click.Path(exists=True, dir_okay=False, allow_dash=True))
@click.option("-o", "--output", type=click.Path(dir_okay=False), help="Where to write, stdout unless given.")
@click.option("--embeddings", is_flag=True, help="The lines of IN are texts to embed, as JSON strings.")
@request_options
def render(
    source: str, output: str | None, embeddings: bool, reading: dict[str, Any], arguments: dict[str, Any]
) -> None:
    """Write the rows of IN ("-" is standard input) as lines of a batch file, exactly as they would be sent.

    \b
    Examples:
      llmbatch render prompts.jsonl -m gpt-4o-mini -o batch.jsonl
      echo '"What is 2+2?"' | llmbatch render - | jq .body
      llmbatch render reviews.csv --template "Sentiment of: {review}" --id-column id
      llmbatch render texts.jsonl --embeddings -m text-embedding-3-small
    """
    from llmbatch import payloads  # noqa: PLC0415 - imports litellm

    if embeddings:
        with opened(source) as file:
            _write(output, payloads.stream_embeddings_requests((value for _, value in json_lines(file)), **arguments))
    else:
        with requests_of(source, **reading) as requests:
            _write(output, payloads.stream_batch_requests(requests, **arguments))


def _write(output: str | None, made: Iterator[Payload]) -> None:
    from llmbatch.payloads import write_batch_file  # noqa: PLC0415 - imports litellm

    count = write_batch_file(output, made) if output else written(sys.stdout, made)
    click.echo(f"{count} requests rendered", err=True)


@click.command()
@click.argument("source", metavar="IN", type=click.Path(exists=True, dir_okay=False, allow_dash=True))
@request_options
def estimate(source: str, reading: dict[str, Any], arguments: dict[str, Any]) -> None:
    """Count rows and tokens of IN, and price them, live and as a batch job. Nothing is sent.

    \b
    Example:
      llmbatch estimate prompts.jsonl -m gpt-4o-mini --max-tokens 100
    """
    from llmbatch.estimate import estimate_batch  # noqa: PLC0415 - imports litellm

    with requests_of(source, **reading) as requests:
        emit(estimate_batch(requests, **arguments).to_dict())
