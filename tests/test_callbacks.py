"""What a user has registered with LiteLLM hears of every request, though llmbatch takes a short cut without it."""

from __future__ import annotations

import time
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest

from llmbatch import create_chat_completions_batch, stream_chat_completions_batch
from llmbatch._litellm import load
from tests.server import Request, Response, Server

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.warm import Warm

# Pydantic's, about LiteLLM's types, where LiteLLM first builds what it tells a callback.
pytestmark = pytest.mark.filterwarnings("ignore:Items .* on TypedDict class")

TEXTS = ["one", "two", "three", "bad", "flaky"]
_LISTS = ("callbacks", "input_callback", "success_callback", "failure_callback", "service_callback",
          "_async_input_callback", "_async_success_callback", "_async_failure_callback")  # fmt: skip


@pytest.fixture
def litellm() -> Iterator[Any]:
    """LiteLLM, whose lists of callbacks are as before after the test."""
    litellm = load()
    before = {name: list(getattr(litellm, name)) for name in _LISTS}
    yield litellm
    for name, value in before.items():
        getattr(litellm, name)[:] = value


@pytest.fixture
def options(server: Server, place: dict[str, Any]) -> dict[str, Any]:
    failed: set[str] = set()

    def answer(request: Request) -> Response | None:
        if request.text == "bad":
            return Response(400)
        if request.text == "flaky" and not failed:
            failed.add(request.text)
            return Response(500)
        return None

    server.handler = answer
    return {**place, "model": "openai/test-model", "progress": False}


def chats(texts: list[str]) -> list[list[dict[str, str]]]:
    return [[{"role": "user", "content": text}] for text in texts]


def settled(events: list[Any], count: int) -> Counter[Any]:
    """The events, once there are as many as expected and no more come; LiteLLM reports them a little later."""
    until = time.monotonic() + 120
    while len(events) < count and time.monotonic() < until:
        time.sleep(0.02)
    time.sleep(0.3)
    return Counter(events)


EXPECTED = Counter({("ok", text): 1 for text in TEXTS if text != "bad"} | {("failed", t): 1 for t in ("bad", "flaky")})


def logger_of(events: list[Any]) -> Any:
    """A CustomLogger that notes what it hears."""
    from litellm.integrations.custom_logger import CustomLogger

    class Logger(CustomLogger):
        async def async_log_success_event(self, kwargs: Any, response_obj: Any, start_time: Any, end_time: Any) -> None:
            events.append(("ok", kwargs["messages"][0]["content"]))

        async def async_log_failure_event(self, kwargs: Any, response_obj: Any, start_time: Any, end_time: Any) -> None:
            events.append(("failed", kwargs["messages"][0]["content"]))

    return Logger()


def by_logger(litellm: Any, events: list[Any]) -> None:
    litellm.callbacks = [logger_of(events)]


def by_functions(litellm: Any, events: list[Any]) -> None:
    async def succeeded(kwargs: Any, response: Any, start: Any, end: Any) -> None:
        events.append(("ok", kwargs["messages"][0]["content"]))

    def failed(kwargs: Any, response: Any, start: Any, end: Any) -> None:
        events.append(("failed", kwargs["messages"][0]["content"]))

    litellm.success_callback, litellm.failure_callback = [succeeded], [failed]


def test_with_callbacks_a_batch_stays_in_one_process(litellm: Any, options: dict[str, Any], log: list[str]) -> None:
    """They live in it; the log says so once."""
    events: list[Any] = []
    by_logger(litellm, events)
    assert not create_chat_completions_batch(chats(["one", "two"]), **options, processes=2).failed
    assert settled(events, 2) == Counter({("ok", "one"): 1, ("ok", "two"): 1})
    assert sum("stays in one process" in line for line in log) == 1


@pytest.mark.parametrize("register", [by_logger, by_functions])
def test_each_answer_and_each_failed_attempt_is_reported_once(
    litellm: Any, options: dict[str, Any], register: Callable[[Any, list[Any]], None]
) -> None:
    """A CustomLogger and plain callbacks hear of every answered row once, and of every failed attempt once."""
    events: list[Any] = []
    register(litellm, events)
    results = create_chat_completions_batch(chats(TEXTS), **options)
    assert [row["attempts"] for row in results] == [1, 1, 1, 1, 2]
    assert settled(events, EXPECTED.total()) == EXPECTED


def test_callbacks_of_one_call_are_heard_too(litellm: Any, options: dict[str, Any]) -> None:
    """`success_callback=` given to the batch itself works, and for that batch only."""
    events: list[Any] = []

    async def succeeded(kwargs: Any, response: Any, start: Any, end: Any) -> None:
        events.append(kwargs["messages"][0]["content"])

    create_chat_completions_batch(chats(["one", "two"]), success_callback=[succeeded], **options)
    create_chat_completions_batch(chats(["three"]), **options)
    assert settled(events, 2) == Counter({"one": 1, "two": 1})


def test_callbacks_registered_between_batches_are_heard(litellm: Any, options: dict[str, Any]) -> None:
    """The short cut is taken or not anew for each request."""
    events: list[Any] = []
    create_chat_completions_batch(chats(["one"]), **options)
    by_logger(litellm, events)
    create_chat_completions_batch(chats(["two"]), **options)
    assert settled(events, 1) == Counter({("ok", "two"): 1})


def test_streams_are_reported(litellm: Any, options: dict[str, Any]) -> None:
    """A streamed row is one event, at its end."""
    events: list[Any] = []
    by_logger(litellm, events)
    list(stream_chat_completions_batch(chats(["one"]), **options))
    assert settled(events, 1) == Counter({("ok", "one"): 1})


@pytest.mark.processes
def test_a_script_that_ends_at_once_loses_no_callback(
    warm: Warm, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Slow callbacks of the last requests are waited for at the interpreter's exit."""
    code = """
import asyncio, atexit, os
heard = []
atexit.register(lambda: print(len(heard)))
from llmbatch import create_chat_completions_batch
import litellm
async def slow(kwargs, response, start, end):
    await asyncio.sleep(0.3)
    heard.append(1)
litellm.success_callback = [slow]
create_chat_completions_batch([[{"role": "user", "content": f"Say {i}."}] for i in range(20)])
"""
    monkeypatch.setenv("OPENAI_API_KEY", "sk-test")
    monkeypatch.setenv("OPENAI_BASE_URL", server.api_base)
    monkeypatch.setenv("LITELLM_LOCAL_MODEL_COST_MAP", "True")
    with warm.script(code) as process:
        assert process.communicate() == ("20\n", "")


_BATCHING = """
import asyncio, atexit, os, sys
from llmbatch import create_chat_completions_batch
from llmbatch._litellm import exit_flush, load
litellm = load()
from litellm.integrations.custom_batch_logger import CustomBatchLogger
exporter = ["open"]
class Batching(CustomBatchLogger):
    def __init__(self):
        super().__init__(flush_lock=asyncio.Lock())
    async def async_log_success_event(self, kwargs, response_obj, start_time, end_time):
        if exporter == ["open"]:
            exporter.append("used")
            atexit.register(exporter.clear)  # as OpenTelemetry's tracer provider does
        await asyncio.sleep(0.2)
        self.log_queue.append(kwargs["messages"])
    async def async_send_batch(self):
        await asyncio.sleep({seconds})
        await asyncio.get_running_loop().getaddrinfo("localhost", 80)  # needs a thread
        print(len(self.log_queue), exporter[0])
exit_flush.FLUSH_SECONDS = {limit}
litellm.callbacks = [Batching()]
create_chat_completions_batch([f"Say {{i}}." for i in range(20)], "openai/test-model", api_base={place!r}, api_key="k")
"""


@pytest.mark.processes
def test_a_batching_logger_sends_at_exit_what_it_holds(warm: Warm, server: Server) -> None:
    """It is flushed after the last callbacks, and before exporters shut down and threads can no longer start."""
    with warm.script(_BATCHING.format(seconds=0, limit=30, place=server.api_base)) as process:
        assert process.communicate() == ("20 open\n", "")


@pytest.mark.processes
def test_a_logger_that_hangs_at_exit_is_given_up_and_reported(warm: Warm, server: Server) -> None:
    """The process ends after a time limit, and stderr names what was lost."""
    with warm.script(_BATCHING.format(seconds=60, limit=1.5, place=server.api_base)) as process:
        assert process.communicate() == (
            "", "Exit: gave up on what Batching had not sent of LiteLLM after 1.5 s\n"
        )  # fmt: skip


def test_opentelemetry_spans_come_from_litellm(
    litellm: Any, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """LiteLLM's own integration makes a GenAI span for each request, with tokens, and errors marked as such."""
    pytest.importorskip("opentelemetry.sdk")
    from litellm.integrations.opentelemetry import OpenTelemetry, OpenTelemetryConfig
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    monkeypatch.setenv("USE_OTEL_LITELLM_REQUEST_SPAN", "true")
    exporter, tracing = InMemorySpanExporter(), TracerProvider()
    tracing.add_span_processor(SimpleSpanProcessor(exporter))
    litellm.callbacks = [OpenTelemetry(config=OpenTelemetryConfig(exporter=exporter), tracer_provider=tracing)]
    with tracing.get_tracer("test").start_as_current_span("nightly job") as job:
        results = create_chat_completions_batch(chats(TEXTS), **options)
    until = time.monotonic() + 120
    while len(exporter.get_finished_spans()) < 11 and time.monotonic() < until:
        time.sleep(0.05)
    spans = [span for span in exporter.get_finished_spans() if span.name == "litellm_request"]
    assert len(spans) == sum(row["attempts"] for row in results)
    assert sum(span.status.is_ok for span in spans) == 4
    assert {span.parent.span_id for span in spans} == {job.get_span_context().span_id}
    answered = [span.attributes for span in spans if span.status.is_ok]
    assert sum(attributes["gen_ai.usage.total_tokens"] for attributes in answered) == results.usage["total_tokens"]
    assert {attributes["gen_ai.request.model"] for attributes in answered} == {"test-model"}
