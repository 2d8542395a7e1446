"""`llmbatch render` and `llmbatch estimate`: nothing is sent."""

# ruff: noqa: D301 - click takes \b for "keep these lines as they are"

from __future__ import annotations

import sys
from typing import IO, Any

import click

from llmbatch.cli._io import emit, lines_of, request_arguments, request_options, rows_of, written

__all__ = ["estimate", "render"]


@click.command()
@click.argument("source", type=click.File("r", encoding="utf-8"))
@click.option("-o", "--output", type=click.Path(dir_okay=False), help="Where to write, stdout unless given.")
@click.option("--embeddings", is_flag=True, help="The lines are texts to embed.")
@request_options
def render(source: IO[str], output: str | None, embeddings: bool, **options: Any) -> None:
    """Write the requests as lines of a batch file, exactly as they would be sent.

    \b
    Examples:
      llmbatch render prompts.jsonl -m gpt-4o-mini -o batch.jsonl
      echo '"What is 2+2?"' | llmbatch render - | jq .body
      llmbatch render texts.jsonl --embeddings -m text-embedding-3-small
    """
    from llmbatch import payloads  # noqa: PLC0415 - imports litellm

    arguments = request_arguments(**options)
    if embeddings:
        del arguments["temperature"], arguments["max_tokens"]
        texts = (value for _, value in lines_of(source))
        made = payloads.stream_embeddings_requests(texts, **arguments)
    else:
        conversations, ids = rows_of(source)
        made = payloads.stream_batch_requests(conversations, custom_ids=ids, **arguments)
    count = payloads.write_batch_file(output, made) if output else written(sys.stdout, made)
    click.echo(f"{count} requests rendered", err=True)


@click.command()
@click.argument("source", type=click.File("r", encoding="utf-8"))
@request_options
def estimate(source: IO[str], **options: Any) -> None:
    """Count rows and tokens, and price them, live and as a batch job.

    \b
    Example:
      llmbatch estimate prompts.jsonl -m gpt-4o-mini --max-tokens 100
    """
    from llmbatch.estimate import estimate_batch  # noqa: PLC0415 - imports litellm

    conversations, _ = rows_of(source)
    emit(estimate_batch(conversations, **request_arguments(**options)).to_dict())
