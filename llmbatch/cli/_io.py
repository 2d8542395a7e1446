"""JSONL in, JSON out, and the options that name a request."""

from __future__ import annotations

import json
import sys
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from itertools import chain
from typing import IO, Any, TypeVar

import click

from llmbatch._requests import DEFAULT_MAX_TOKENS, DEFAULT_TEMPERATURE

__all__ = ["emit", "is_payload", "lines_of", "request_arguments", "request_options", "rows_of", "written"]

F = TypeVar("F", bound=Callable[..., Any])


def lines_of(file: IO[str]) -> Iterator[tuple[int, Any]]:
    """Each line's number and value. Raises ValueError, with the number, for a line that is not JSON."""
    for number, line in enumerate(file, 1):
        if line.strip():
            try:
                yield number, json.loads(line)
            except ValueError as exc:
                msg = f"{getattr(file, 'name', 'input')}, line {number}: not JSON ({exc})"
                raise ValueError(msg) from None


def is_payload(value: Any) -> bool:
    """Whether a line is a rendered request."""
    return isinstance(value, Mapping) and {"custom_id", "body"} <= value.keys()


def rows_of(file: IO[str]) -> tuple[Iterator[Any], Iterator[str] | None]:
    """The conversations of an input file, one by one, and their ids where the lines have a `custom_id` (or an `id`).

    Each id comes after its conversation. Raises ValueError, with the line's number, on the way.
    """
    rows = _rows(file)
    first = next(rows, None)
    if first is None:
        return iter(()), None
    waiting: deque[str] = deque()
    have_ids = first[2] is not None

    def conversations() -> Iterator[Any]:
        for number, conversation, custom_id in chain([first], rows):
            if (custom_id is not None) != have_ids:
                msg = f"line {number} has {'no' if have_ids else 'a'} custom_id; give one to each line or to none"
                raise ValueError(msg)
            if custom_id is not None:
                waiting.append(custom_id)
            yield conversation

    def ids() -> Iterator[str]:
        while waiting:
            yield waiting.popleft()

    return conversations(), ids() if have_ids else None


def _rows(file: IO[str]) -> Iterator[tuple[int, Any, str | None]]:
    for number, value in lines_of(file):
        given, custom_id = value, None
        if isinstance(given, Mapping):
            custom_id = given.get("custom_id", given.get("id"))
            given = given.get("messages", given.get("prompt"))
        given = [{"role": "user", "content": given}] if isinstance(given, str) else given
        if not isinstance(given, list):
            msg = f'line {number}: no conversation; give a list of messages, {{"messages": [...]}}, or a string'
            raise ValueError(msg)  # noqa: TRY004 - a file's fault
        yield number, given, None if custom_id is None else str(custom_id)


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


def emit(value: Any) -> None:
    """Print JSON: one line on a pipe, indented on a terminal."""
    click.echo(json.dumps(value, ensure_ascii=False, indent=2 if sys.stdout.isatty() else None))


def written(file: IO[str], values: Any) -> int:
    """Write values as JSONL and return how many there were."""
    count = 0
    for value in values:
        file.write(json.dumps(value, ensure_ascii=False, separators=(",", ":")) + "\n")
        count += 1
    return count
