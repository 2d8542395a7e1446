"""The command group, and how failures become messages and exit codes."""

# ruff: noqa: D301 - click takes \b for "keep these lines as they are"

from __future__ import annotations

import sys
from typing import Any

import click

from llmbatch.errors import CheckpointError, LLMBatchError

BAD_END, MISUSE, NOT_YET, FAILED, INTERRUPTED = 1, 2, 3, 4, 130


class Group(click.Group):
    """Says what went wrong in one line, without a traceback."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            raise
        except (LLMBatchError, ValueError, TypeError, NotImplementedError, ImportError, OSError) as exc:
            # Misuse, which says its mend, as a missing extra does; an unreadable file says its path.
            click.echo(f"Error: {exc}", err=True)
            elsewhere = isinstance(exc, LLMBatchError) and not isinstance(exc, CheckpointError)
            sys.exit(FAILED if elsewhere else MISUSE)
        except KeyboardInterrupt:
            click.echo("Interrupted", err=True)
            sys.exit(INTERRUPTED)


@click.group(cls=Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("-v", "--verbose", is_flag=True, help="Show the log on stderr.")
@click.version_option(package_name="llmbatch", prog_name="llmbatch")
def main(verbose: bool) -> None:
    """LLM work that comes in lists: live, or as the provider's own batch jobs.

    Input is JSONL: a conversation a line, as a list of messages, as {"messages": [...]}, or as a plain JSON string.
    Keys come from the environment (OPENAI_API_KEY and the like).

    \b
    Exit codes: 0 done; 1 rows failed or the job ended badly; 2 misuse;
                3 not done yet; 4 the provider or the network failed; 130 interrupted.
    """
    if verbose:
        import llmbatch  # noqa: PLC0415

        llmbatch.enable_logging()
