"""Tracing tools that patch LiteLLM, the OpenAI SDK or aiohttp see each request once, and none that was never sent."""

from __future__ import annotations

import functools
import time
from typing import TYPE_CHECKING, Any

import aiohttp
import openai.resources.chat.completions as sdk_chat
import openai.resources.embeddings as sdk_embeddings
import pytest

import llmbatch
from llmbatch._litellm import load
from tests.server import Request, Response, Server

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


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


@pytest.fixture
def spans() -> Iterator[Any]:
    """An application that records spans with OpenTelemetry: its exporter, and a tracer for spans of its own."""
    pytest.importorskip("opentelemetry.sdk")
    from opentelemetry import trace
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(trace, "get_tracer_provider", lambda: provider)
        patched.setattr(trace, "get_tracer", provider.get_tracer)
        exporter.tracer = provider.get_tracer("the application")
        yield exporter


@pytest.mark.usefixtures("quick_backoff")
def test_transport_direct_makes_genai_spans(spans: Any, options: dict[str, Any], server: Server) -> None:
    """One for each attempt, within the caller's span, with tokens, row and batch; without prompts and answers."""
    failed: list[str] = []

    def answer(request: Request) -> Response | None:
        if request.text != "flaky secret prompt" or failed:
            return None
        failed.append(request.text)
        return Response(500)

    server.handler = answer
    asked = [{"prompt": "flaky secret prompt", "custom_id": "a", "metadata": {"team": "x"}}, "another secret prompt"]
    with spans.tracer.start_as_current_span("nightly job") as job:
        results = llmbatch.create_chat_completions_batch(asked, transport="direct", **options)
        vectors = llmbatch.create_embeddings_batch(["secret text"], transport="direct", **options)
    assert not [*results.failed, *vectors.failed]
    made = [span for span in spans.get_finished_spans() if span.parent is not None]
    assert {span.parent.span_id for span in made} == {job.get_span_context().span_id}
    assert sorted(span.name for span in made) == ["chat test-model"] * 3 + ["embeddings test-model"]
    assert sum(not span.status.is_ok and span.status.status_code.name == "ERROR" for span in made) == 1
    first = [span.attributes for span in made if span.attributes["llmbatch.custom_id"] == "a"]
    assert [one["llmbatch.batch_id"] for one in first] == [results.batch_id] * 2
    assert (first[0]["llmbatch.index"], first[0]["llmbatch.metadata"]) == (0, '{"team": "x"}')
    assert [one.get("error.type") is None for one in first] == [False, True]
    assert first[1]["gen_ai.usage.output_tokens"] == results[0]["usage"]["completion_tokens"]
    assert first[1]["gen_ai.provider.name"] == "openai"
    assert "secret" not in str([span.to_json() for span in made])


def test_listeners_hear_which_row_a_request_is_for(options: dict[str, Any], server: Server) -> None:
    """LiteLLM's `metadata` has batch, index, id and the request's own metadata; the provider gets none of it."""
    from litellm.integrations.custom_logger import CustomLogger

    heard: list[dict[str, Any]] = []

    class Logger(CustomLogger):
        async def async_log_success_event(self, kwargs: Any, response_obj: Any, start_time: Any, end_time: Any) -> None:
            heard.append(kwargs["litellm_params"]["metadata"])

    litellm = load()
    litellm.callbacks = [Logger()]
    try:
        asked = [{"prompt": "a", "custom_id": "id-0", "metadata": {"user_id": "u-1", "tags": ["x"]}}]
        results = llmbatch.create_chat_completions_batch(asked, **options)
        vectors = llmbatch.create_embeddings_batch(["b"], **options)
        streamed = list(llmbatch.stream_chat_completions_batch(asked, **options))
        anthropic = {**options, "model": "anthropic/claude-sonnet-4-5", "api_base": server.api_base}
        llmbatch.create_chat_completions_batch(asked, retries=0, **anthropic)
        until = time.monotonic() + 60
        while len(heard) < 3 and time.monotonic() < until:
            time.sleep(0.02)
    finally:
        for name in ("callbacks", "success_callback", "failure_callback", "input_callback", "_async_success_callback",
                     "_async_failure_callback", "_async_input_callback", "service_callback"):  # fmt: skip
            getattr(litellm, name).clear()
    assert not [*results.failed, *vectors.failed]
    assert streamed
    by_batch = {one["batch_id"]: one for one in heard}
    first = by_batch[results.batch_id]
    assert (first["index"], first["custom_id"], first["row_metadata"]) == (0, "id-0", {"user_id": "u-1", "tags": ["x"]})
    assert by_batch[vectors.batch_id]["custom_id"] == vectors[0]["custom_id"]
    assert len(by_batch) == 3
    assert not any(
        "u-1" in request.body.decode() or results.batch_id in request.body.decode() for request in server.requests
    )
    assert len(server.requests) == 4
