"""The command group, its exit codes, shared options, and JSON output."""

# ruff: noqa: D301 - click takes \b for "keep these lines as they are"

from __future__ import annotations

import atexit
import functools
import gc
import io
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import click

from llmbatch._limits.rate_headers import seconds_in
from llmbatch._util.files import json_text
from llmbatch.cli._deployments import addresses
from llmbatch.errors import CheckpointError, LLMBatchError

BAD_END, MISUSE, NOT_YET, FAILED, INTERRUPTED = 1, 2, 3, 4, 130
# Raised for misuse, with a message that says how to fix it; an unreadable file's says its path.
MISUSES = (CheckpointError, ValueError, TypeError, NotImplementedError, ImportError, OSError)


class Group(click.Group):
    """A command group that reports errors in one line, without a traceback."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            raise
        except (LLMBatchError, *MISUSES) as exc:
            click.echo(f"Error: {exc}", err=True)
            misuse = CheckpointError | NotImplementedError | ImportError
            sys.exit(FAILED if isinstance(exc, LLMBatchError) and not isinstance(exc, misuse) else MISUSE)
        except KeyboardInterrupt:
            click.echo("Interrupted", err=True)
            sys.exit(INTERRUPTED)


@click.group(cls=Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("-v", "--verbose", is_flag=True, help="Show the log on stderr.")
@click.version_option(package_name="llmbatch", prog_name="llmbatch")
def main(verbose: bool) -> None:
    """Send lists of prompts to an LLM, live or through the provider's Batch API.

    Input is JSONL, one conversation per line: a list of messages, {"messages": [...]}, or a plain JSON string. API keys
    come from the environment (OPENAI_API_KEY and the like).

    \b
    Exit codes: 0 done; 1 rows failed, or the output could not be finished;
                2 misuse, nothing was sent; 3 not done yet;
                4 the provider or the network failed; 130 interrupted.
    """
    _replace_closed_streams()
    atexit.register(gc.freeze)  # the interpreter's last collections take as long as a third of the import of LiteLLM
    if isinstance(sys.stdout, io.TextIOWrapper):  # a file or a pipe gets JSON in UTF-8, whatever the locale
        encoding = sys.stdout.encoding if sys.stdout.isatty() else "utf-8"
        sys.stdout.reconfigure(encoding=encoding, errors="backslashreplace")
    if verbose:
        import llmbatch  # noqa: PLC0415

        llmbatch.enable_logging()


def _replace_closed_streams() -> None:
    """Put the null device where a daemon has closed a standard stream.

    The next file to be opened would get its number otherwise, and would be taken for standard output.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest free number
        if number and getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: PTH123, SIM115 - until the process ends


_OPTIONS = (
    click.option("--format", "kind", type=click.Choice(["jsonl", "csv", "tsv", "parquet"]),
                 help="Format of IN; default: by its suffix."),
    click.option("--template", metavar="TEXT", help='Prompt with columns in braces, as in "Summarise: {text}".'),
    click.option("--column", metavar="NAME", help="Column that holds the prompt."),
    click.option("--id-column", metavar="NAME", help="Column that holds the row's id; default: custom_id or id."),
    click.option("--image-column", metavar="NAME", help="Column with an image for the prompt: a path or a URL."),
    click.option("--limit", type=click.IntRange(1), metavar="N", help="Only the first N rows."),
    click.option("--sample", type=click.IntRange(1), metavar="N", help="Only N rows at random, the same each time."),
    click.option("--system", metavar="TEXT", help="System message for conversations that have none."),
    click.option("-m", "--model", help="Model, as LiteLLM names it; default: MODEL_CHOICE, or gpt-4o-mini."),
    click.option("-t", "--temperature", type=float, help="0 to 2; default: 0.3."),
    click.option("--max-tokens", type=int, help="Maximum number of tokens of each answer; default: 200."),
    click.option("--api-base", "api_bases", multiple=True, metavar="URL",
                 help="Base URL of an OpenAI-compatible server; repeatable, for several that answer together."),
    click.option("--deployments", "deployments_file", type=click.Path(exists=True, dir_okay=False, path_type=Path),
                 help="YAML or JSON file of deployments, such as a LiteLLM Router's configuration."),
    click.option("-p", "--param", "params", multiple=True, metavar="NAME=JSON",
                 help="Any other parameter, as in -p seed=7 or -p stop='[\"END\"]'."),
)  # fmt: skip


_READING = ("kind", "template", "column", "id_column", "image_column", "limit", "sample", "system")


def request_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options for reading IN and for the model to a command.

    The command gets them as `reading`, for `requests_of`, and as `arguments` of the Python functions.
    """

    @functools.wraps(command)
    def called(
        params: tuple[str, ...], api_bases: tuple[str, ...], deployments_file: Path | None, **options: Any
    ) -> None:
        reading = {name: options.pop(name) for name in _READING}
        asked = {name: options.pop(name) for name in ("model", "temperature", "max_tokens")}
        arguments = {name: value for name, value in asked.items() if value not in {None, ""}}
        arguments |= map(_parameter, params)
        arguments |= addresses(tuple(filter(None, api_bases)), deployments_file, arguments)
        command(reading={**reading, "said": arguments}, arguments=arguments, **options)

    for option in reversed(_OPTIONS):
        called = option(called)
    return called


def _parameter(param: str) -> tuple[str, Any]:
    name, found, text = param.partition("=")
    if not (found and name.isidentifier()):
        raise ValueError(f"-p {param} is not a parameter. Write NAME=JSON, as in -p seed=7.")
    try:
        return name, json.loads(text)
    except ValueError:
        return name, text


def seconds(text: str) -> float:
    """Return the seconds of a number, or of a number with a unit."""
    try:
        return float(text)
    except ValueError:
        if found := seconds_in(text):
            return found
        raise


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
