"""`llmbatch report`: a page about a file of answers."""

# ruff: noqa: D301 - click takes \b for "keep these lines as they are"

from __future__ import annotations

from pathlib import Path

import click

from llmbatch.cli._arranged import rows_in
from llmbatch.cli._inputs import json_lines, opened
from llmbatch.results import BatchResults


@click.command()
@click.argument("answers", metavar="OUT", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("-o", "--output", required=True, type=click.Path(dir_okay=False, path_type=Path), help="The HTML file.")
@click.option("--prompts", metavar="IN", type=click.Path(exists=True, dir_okay=False),
              help="The JSONL file that OUT answers, in its order: show what was asked too.")  # fmt: skip
def report(answers: Path, output: Path, prompts: str | None) -> None:
    """Make one HTML file about the answers in OUT (of `run`, of a batch job, or a checkpoint); it needs no network.

    Rows over time, latency, tokens and cost by model, failures with examples, cut-off answers, the slowest and the
    dearest rows, and a table of samples to search. Needs the `report` extra.

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
