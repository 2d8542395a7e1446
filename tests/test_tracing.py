"""Tracing tools that patch LiteLLM, the OpenAI SDK or aiohttp see each request once, and none that was never sent."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import aiohttp
import openai.resources.chat.completions as sdk_chat
import openai.resources.embeddings as sdk_embeddings
import pytest

import llmbatch
from llmbatch._litellm import load

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.server import Server

Spans = list[str]


@pytest.fixture
def options(place: dict[str, Any], request: pytest.FixtureRequest) -> dict[str, Any]:
    """A place with a key of its own: LiteLLM keeps a key's client, with the functions that it had at first."""
    return {**place, "api_key": f"sk-{request.node.name}", "model": "openai/test-model", "progress": False}


def patch(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, spans: Spans) -> None:
    """Put a function around another one, as instrumentations do."""
    original = getattr(owner, name)

    @functools.wraps(original)
    def traced(*args: Any, **kwargs: Any) -> Any:
        spans.append(name)
        return original(*args, **kwargs)

    monkeypatch.setattr(owner, name, traced)


TOOLS: dict[str, Callable[[], tuple[Any, str]]] = {
    "LiteLLM": lambda: (load(), "acompletion"),
    "the OpenAI SDK": lambda: (sdk_chat.AsyncCompletions, "create"),
    "aiohttp": lambda: (aiohttp.ClientSession, "_request"),
}


def test_processes_with_a_tracing_tool_stay_in_one_process(
    monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], log: list[str]
) -> None:
    """Its spans would be lost with requests of worker processes; the log names the library that it has patched."""
    spans: Spans = []
    patch(monkeypatch, load(), "acompletion", spans)
    assert not llmbatch.create_chat_completions_batch(["a", "b"], processes=2, **options).failed
    assert len(spans) == 2
    assert sum("stays in one process" in line and "a tracing tool has patched" in line for line in log) == 1


def test_transport_direct_with_a_tracing_tool_goes_through_litellm(
    monkeypatch: pytest.MonkeyPatch, options: dict[str, Any]
) -> None:
    """A tool that has patched LiteLLM sees every request."""
    spans: Spans = []
    patch(monkeypatch, load(), "acompletion", spans)
    options["transport"] = "direct"
    assert not llmbatch.create_chat_completions_batch(["a", "b"], **options).failed
    assert len(spans) == 2


@pytest.mark.parametrize("tool", TOOLS)
def test_warm_up_makes_no_span(
    monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], server: Server, tool: str
) -> None:
    """warm_up calls nothing that a tracing tool has patched, and sends nothing."""
    spans: Spans = []
    patch(monkeypatch, *TOOLS[tool](), spans)
    llmbatch.warm_up(**{name: value for name, value in options.items() if name != "progress"})
    assert (spans, server.requests) == ([], [])


@pytest.mark.parametrize("name", ["completion", "embedding"])
def test_rendered_payloads_make_no_span(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Rendering uses LiteLLM's own functions, so that a tracing tool reports no failed request."""
    spans: Spans = []
    patch(monkeypatch, load(), name, spans)
    if name == "completion":
        llmbatch.render_batch_requests(["a", [{"role": "user", "content": "b"}]], "gpt-4o-mini")
    else:
        llmbatch.render_embeddings_requests(["a"], "text-embedding-3-small")
    assert spans == []


def test_embeddings_with_a_traced_sdk_name_no_format(
    monkeypatch: pytest.MonkeyPatch, place: dict[str, Any], server: Server
) -> None:
    """With an encoding_format LiteLLM uses `with_raw_response`, which OpenTelemetry's openai-v2 cannot read."""
    patch(monkeypatch, sdk_embeddings.AsyncEmbeddings, "create", [])
    results = llmbatch.create_embeddings_batch(["a", "b"], model="openai/test-model", progress=False, **place)
    assert not results.failed
    assert all("encoding_format" not in request.json for request in server.requests)
