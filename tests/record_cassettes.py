"""What the cassettes in `cassettes/` hold, and the one command that records them (or some) anew.

    uv run python -m tests.record_cassettes [name …]

Every scenario runs llmbatch's public functions against a server on this machine, over real sockets; `test_cassettes.py`
runs the same scenarios against the recordings.
"""

from __future__ import annotations

import contextlib
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

from llmbatch import BatchResults, create_chat_completions_batch, create_embeddings_batch, submit_batch_job
from llmbatch.local import local_server
from llmbatch.testing import cassette

if TYPE_CHECKING:
    from collections.abc import Callable

CASSETTES = Path(__file__).parent.parent / "cassettes"
EXAMPLES = Path(__file__).parent.parent / "examples"
LOCAL = {"model": "openai/smollm2", "api_base": "http://127.0.0.1:1/v1", "api_key": "made-up"}
LLMOCK = {"model": "openai/gpt-4o-mini", "api_base": "http://127.0.0.1:1/v1", "api_key": "made-up"}
TOOL = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Today's weather in a city",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}


class Place(BaseModel):
    """What the structured answers are made of."""

    city: str
    country: str


def ask(*questions: str, system: str | None = None) -> list[list[dict[str, str]]]:
    """One conversation a question."""
    first = [{"role": "system", "content": system}] if system else []
    return [[*first, {"role": "user", "content": question}] for question in questions]


def questions(**target: Any) -> BatchResults:
    """A chat batch with system prompts."""
    asked = ask(
        "What is the capital of France?",
        "Who invented the telephone?",
        "What is the speed of light?",
        system="You are an encyclopedia.",
    )
    return create_chat_completions_batch(asked, max_tokens=24, **target)


def refused_row(**target: Any) -> BatchResults:
    """One row that the server refuses (it exceeds the context of 2,048 tokens) among good ones."""
    asked = ask("What is the capital of France?", "a " * 2100, "Who invented the telephone?")
    return create_chat_completions_batch(asked, max_tokens=16, **target)


def structured(**target: Any) -> BatchResults:
    """Answers in the shape of a pydantic model."""
    asked = ask(*(f"In which city and country is {sight}?" for sight in ("the Eiffel Tower", "the Colosseum")))
    return create_chat_completions_batch(asked, response_format=Place, temperature=0, max_tokens=60, **target)


def embeddings(**target: Any) -> BatchResults:
    """Vectors of three texts."""
    return create_embeddings_batch(["a cat", "a dog", "quantum field theory"], **target)


def tools(**target: Any) -> BatchResults:
    """Answers that are tool calls."""
    asked = ask("What is the weather in Paris?", "What is the weather in Rome?")
    return create_chat_completions_batch(asked, tools=[TOOL], **target)


def several_choices(**target: Any) -> BatchResults:
    """Two choices a row."""
    return create_chat_completions_batch(ask("Greet me.", "Say goodbye."), n=2, **target)


def rate_limited(**target: Any) -> BatchResults:
    """Two refusals with 429 and Retry-After, then answers."""
    return create_chat_completions_batch(ask("One?", "Two?", "Three?"), max_workers=1, **target)


def batch_job(**target: Any) -> BatchResults:
    """A whole batch job: upload, creation, polls, download."""
    return submit_batch_job(ask("One?", "Two?", "Three?"), **target).wait(0.2).results()


def which_model(**target: Any) -> BatchResults:
    """The example notebook's own cells, as far as its batch, against this target."""
    notebook = json.loads((EXAMPLES / "which_model.ipynb").read_text())
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code" and not cell["metadata"].get("tags")]
    namespace: dict[str, Any] = {"where": target}
    with contextlib.chdir(EXAMPLES):
        for cell in cells:
            code = compile("".join(cell["source"]), "which_model.ipynb", "exec", dont_inherit=True)
            exec(code, namespace)  # noqa: S102 - it is our own
            if "results" in namespace:
                break
    return namespace["results"]  # type: ignore[no-any-return]


@dataclass(frozen=True)
class Scenario:
    """A batch and the kind of server it is recorded against; `refusals` is how many 429s that sends first."""

    run: Callable[..., BatchResults]
    target: dict[str, str]
    refusals: int = 0


SCENARIOS = {
    "questions": Scenario(questions, LOCAL),
    "refused-row": Scenario(refused_row, LOCAL),
    "structured": Scenario(structured, LOCAL),
    "embeddings": Scenario(embeddings, LOCAL),
    "tools": Scenario(tools, LLMOCK),
    "several-choices": Scenario(several_choices, LLMOCK),
    "rate-limited": Scenario(rate_limited, LLMOCK, refusals=2),
    "batch-job": Scenario(batch_job, LLMOCK),
    "which-model": Scenario(which_model, LOCAL),
}


def main(names: list[str]) -> None:
    """Record the named cassettes, or all."""
    from llmock.scenarios import Fail
    from llmock.testing import LLMockServer

    with local_server(seed=1) as local, LLMockServer() as llmock:
        bases = {id(LOCAL): local.api_base, id(LLMOCK): llmock.base_url("openai")}
        for name in names or SCENARIOS:
            scenario = SCENARIOS[name]
            if scenario.refusals:
                llmock.state.scenarios.add(Fail(429, retry_after=0.2, times=scenario.refusals))
            with cassette(CASSETTES / f"{name}.yaml", record=True):
                results = scenario.run(**{**scenario.target, "api_base": bases[id(scenario.target)]})
            print(f"{name}: {results.summary()}")  # noqa: T201 - the command's output


if __name__ == "__main__":
    main(sys.argv[1:])
