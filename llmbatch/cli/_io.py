"""JSONL in, JSON out, and the options that name a request."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import IO, Any, TypeVar

import click

from llmbatch._leaves.files import json_text
from llmbatch._request.plans import DEFAULT_MAX_TOKENS, DEFAULT_TEMPERATURE
from llmbatch.cli._inputs import Input, checked_input

F = TypeVar("F", bound=Callable[..., Any])


@contextmanager
def requests_of(source: str, kind: str | None, **how: Any) -> Iterator[Input]:
    """The requests of an input file, read as they are needed.

    Raises ValueError, with the row's number, for a line that holds none.
    """
    with checked_input(source, kind, **how) as requests:
        for problem in requests.refused:
            raise ValueError(problem)
        yield requests


def input_options(command: F) -> F:
    """The options that say how an input file is read."""
    kinds = click.Choice(["jsonl", "csv", "parquet"])
    for option in reversed((
        click.option("--format", "kind", type=kinds, help="Of IN; else by its suffix."),
        click.option("--template", metavar="TEXT", help='Prompt over columns or fields, as in "Summarise: {text}".'),
        click.option("--column", metavar="NAME", help="The column that is the prompt."),
        click.option("--id-column", metavar="NAME", help="The column that is the row's id; else custom_id or id."),
        click.option("--system", metavar="TEXT", help="System message for conversations that have none."),
    )):  # fmt: skip
        command = option(command)
    return command


def request_options(command: F) -> F:
    """The options that say what is asked of which model."""
    for option in reversed((
        click.option("-m", "--model", help="LiteLLM's model string; else MODEL_CHOICE, else gpt-4o-mini."),
        click.option("-t", "--temperature", type=float, help="0 to 2; 0.3 unless given."),
        click.option("--max-tokens", type=int, help="Tokens of each answer at most; 200 unless given."),
        click.option("--api-base", help="Base URL of an OpenAI-compatible server."),
        click.option("-p", "--param", "params", multiple=True, metavar="NAME=JSON",
                     help="Any other parameter, as in -p seed=7 or -p stop='[\"END\"]'."),
    )):  # fmt: skip
        command = option(command)
    return command


def request_arguments(
    model: str | None, temperature: float | None, max_tokens: int | None, api_base: str | None, params: tuple[str, ...]
) -> dict[str, Any]:
    """Keyword arguments of the Python functions out of the options."""
    given: dict[str, Any] = {
        "model": model,
        "temperature": DEFAULT_TEMPERATURE if temperature is None else temperature,
        "max_tokens": DEFAULT_MAX_TOKENS if max_tokens is None else max_tokens,
    }
    if api_base:
        given["api_base"] = api_base
    for param in params:
        name, found, text = param.partition("=")
        if not (found and name.isidentifier()):
            msg = f"-p {param}: write NAME=JSON, as in seed=7"
            raise ValueError(msg)
        try:
            given[name] = json.loads(text)
        except ValueError:
            given[name] = text
    return given


def taken_input_options(options: dict[str, Any]) -> dict[str, Any]:
    """What `input_options` gave, taken out of `options`, and what those of `request_options` say themselves."""
    taken = {name: options.pop(name) for name in ("kind", "template", "column", "id_column", "system")}
    asked = {name: options[name] for name in ("model", "temperature", "max_tokens", "api_base", "params")}
    said = {name for name, value in asked.items() if value is not None}
    said |= {param.partition("=")[0] for param in options["params"]}
    return {**taken, "said": {name: value for name, value in request_arguments(**asked).items() if name in said}}


def emit(value: Any) -> None:
    """Print JSON: one line on a pipe, indented on a terminal."""
    click.echo(json_text(value, indent=2 if sys.stdout.isatty() else None))


def written(file: IO[str], values: Any) -> int:
    """Write values as JSONL and return how many there were."""
    count = 0
    for value in values:
        file.write(json_text(value, separators=(",", ":")) + "\n")
        count += 1
    return count
