"""A rendered body is what the live call sends: both are compared over a loopback server, key order included."""

from __future__ import annotations

import asyncio
import functools
import json
import threading
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

import llmbatch
from llmbatch._litellm.render_body import Renderer, render
from llmbatch._request.plans import DEFAULT_MAX_TOKENS, DEFAULT_TEMPERATURE, ChatPlan, plan_chat, plan_embeddings
from tests.effort import examples
from tests.record_cassettes import TOOL
from tests.server import Server

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.contract


class Person(BaseModel):
    name: str
    age: int


MESSAGES = [{"role": "system", "content": "Be brièf."}, {"role": "user", "content": "What's 2 + 2? ☃"}]
MODELS = [
    "gpt-4o-mini", "openai/gpt-4.1", "openai/local-model", "o1", "o3-mini", "gpt-5", "gpt-5-mini", "gpt-5.4",
    "azure/my-deployment", "azure/gpt-4o", "azure/o3-mini",
    "hosted_vllm/llama", "litellm_proxy/anything", "groq/llama-3.1-8b-instant", "groq/openai/gpt-oss-20b",
    "mistral/mistral-small-latest", "xai/grok-3",
    # Rendered for checkpoints and debugging; their providers take no batch lines.
    "deepseek/deepseek-chat", "together_ai/meta-llama/Llama-3-8b-chat-hf", "openrouter/openai/gpt-4o",
    "fireworks_ai/llama-v3p1-8b-instruct", "cerebras/llama3.1-8b", "deepinfra/meta-llama/Meta-Llama-3-8B",
    "perplexity/sonar",
]  # fmt: skip
PARAMETERS: dict[str, dict[str, Any]] = {
    "the defaults": {},
    "nothing": {"temperature": None, "max_tokens": None},
    "temperature": {"temperature": 1.0, "max_tokens": None},
    "max_tokens": {"temperature": None, "max_tokens": 50},
    "max_completion_tokens": {"max_completion_tokens": 50, "temperature": None},
    "sampling": {"seed": 7, "top_p": 0.5, "stop": ["END"], "presence_penalty": 0.1},
    "tools": {"tools": [TOOL], "tool_choice": "auto", "temperature": None},
    "a pydantic response_format": {"response_format": Person, "temperature": None},
    "json mode": {"response_format": {"type": "json_object"}, "metadata": {"a": "b"}, "temperature": None},
    "unknown parameters": {"guided_choice": ["yes", "no"], "foo": {"bar": None}},
    "extra_body": {"extra_body": {"repetition_penalty": 1.1}, "extra_headers": {"x-a": "b"}},
    "choices": {"n": 2, "user": "me", "logprobs": True, "top_logprobs": 2},
    "reasoning_effort": {"reasoning_effort": "low", "temperature": None},
}
EMBEDDING_MODELS = [
    "text-embedding-3-small",
    "azure/embed",
    "hosted_vllm/bge",
    "litellm_proxy/bge",
    "mistral/mistral-embed",
]
EMBEDDING_PARAMETERS: dict[str, dict[str, Any]] = {
    "nothing": {}, "dimensions": {"dimensions": 4}, "user": {"user": "me", "extra_body": {"truncate": True}},
}  # fmt: skip


@pytest.fixture(scope="module")
def wire() -> Iterator[Server]:
    with Server() as server:
        yield server


def place(model: str, wire: Server) -> dict[str, Any]:
    """Where the loopback server stands in for the model's provider."""
    if model.startswith("azure/"):
        return {"api_base": wire.url, "api_key": "made-up", "api_version": "2024-10-21"}
    return {"api_base": wire.api_base, "api_key": "made-up"}


@pytest.mark.parametrize("model", MODELS)
def test_a_rendered_chat_is_what_the_live_call_sends(model: str, wire: Server) -> None:
    """For every parameter set: the same JSON in the same order; what LiteLLM refuses to send is not rendered."""
    compared = 0
    for name, given_ in PARAMETERS.items():
        wire.requests.clear()
        arguments = {**given_, **place(model, wire)}
        llmbatch.create_chat_completions_batch([MESSAGES], model, retries=0, progress=False, **arguments)
        sent = [(request.path.partition("?")[0], request.json) for request in wire.requests]
        chosen = {"temperature": DEFAULT_TEMPERATURE, "max_tokens": DEFAULT_MAX_TOKENS, **arguments}
        plan = plan_chat(model, **chosen)
        if not sent or sent[0][0].endswith("/responses"):
            with pytest.raises(Exception, match=r"."):
                render(plan.request(MESSAGES))
            continue
        compared += 1
        assert json.dumps(render(plan.request(MESSAGES))) == json.dumps(sent[0][1]), (model, name)
    assert compared >= 6


@pytest.mark.parametrize("model", EMBEDDING_MODELS)
def test_a_rendered_embedding_is_what_the_live_call_sends(model: str, wire: Server) -> None:
    """One text in a list of one, as the live batch sends its chunks; a lone text is rendered as a lone text."""
    compared = 0
    for name, given_ in EMBEDDING_PARAMETERS.items():
        wire.requests.clear()
        arguments = {**given_, **place(model, wire)}
        llmbatch.create_embeddings_batch(["a cat ☃"], model, retries=0, progress=False, **arguments)
        plan = plan_embeddings(model, **arguments)
        if not wire.requests:
            with pytest.raises(Exception, match=r"."):
                render({**plan.request("a cat ☃"), "input": ["a cat ☃"]})
            continue
        compared += 1
        assert json.dumps(render({**plan.request("a cat ☃"), "input": ["a cat ☃"]})) == json.dumps(
            wire.requests[0].json
        ), (model, name)
    assert compared >= (1 if model.startswith("mistral/") else 3)


def test_a_chat_bridged_to_the_responses_api_is_never_a_chat_line() -> None:
    """LiteLLM sends some models to /v1/responses; a batch line for /v1/chat/completions would be another request."""
    with pytest.raises(ValueError, match="another endpoint"):
        llmbatch.render_batch_requests([MESSAGES], "gpt-5.2-codex")


def test_rendering_sends_nothing_and_needs_no_key(wire: Server) -> None:
    """No request leaves, no key is read, and none is in the payload."""
    wire.requests.clear()
    (payload,) = llmbatch.render_batch_requests(
        [MESSAGES], "openai/x", api_base=wire.api_base, api_key="sk-very-secret"
    )
    assert not wire.requests
    assert "secret" not in json.dumps(payload)
    assert llmbatch.render_batch_requests([MESSAGES], "azure/my-deployment")[0]["body"]["model"] == "my-deployment"


def test_rendering_makes_no_event_loop_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """LiteLLM makes one in a main thread that has none, and leaves it open."""
    makers: list[threading.Thread] = []
    make = asyncio.BaseEventLoop.__init__

    def seen(self: Any) -> None:
        makers.append(threading.current_thread())
        make(self)

    monkeypatch.setattr(asyncio.BaseEventLoop, "__init__", seen)
    for model in ("gpt-4o-mini", "hosted_vllm/llama"):
        assert render({"model": model, "messages": MESSAGES})["messages"] == MESSAGES
    assert threading.current_thread() not in makers


def test_what_litellm_refuses_is_refused_when_rendering() -> None:
    """Parameters that the model does not take raise, as they fail the live row."""
    with pytest.raises(Exception, match="temperature"):
        llmbatch.render_batch_requests([MESSAGES], "o3-mini", temperature=0.5)


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
parts = st.one_of(
    st.fixed_dictionaries({"type": st.just("text"), "text": texts}),
    st.fixed_dictionaries(
        {"type": st.just("image_url"), "image_url": st.fixed_dictionaries({"url": st.just("https://a.invalid/b.png")})}
    ),
)
messages = st.one_of(
    st.fixed_dictionaries(
        {"role": st.sampled_from(["system", "developer", "user", "assistant"]), "content": texts},
        optional={"name": st.just("bob"), "cache_control": st.just({"type": "ephemeral"})},
    ),
    st.fixed_dictionaries({"role": st.just("user"), "content": st.lists(parts, min_size=1, max_size=3)}),
    st.fixed_dictionaries({"role": st.just("tool"), "content": texts, "tool_call_id": st.just("c1")}),
)
FAST_MODELS = ["gpt-4o", "o3-mini", "hosted_vllm/x", "mistral/mistral-small-latest", "xai/grok-3"]


@functools.cache
def fast(model: str) -> tuple[Renderer, ChatPlan]:
    """One renderer for all examples of a model, as one batch has."""
    return Renderer(), plan_chat(model, None, 50, seed=1, api_key="k")


@pytest.mark.more_at_night
@settings(max_examples=examples(80), deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(conversation=st.lists(messages, min_size=1, max_size=3), model=st.sampled_from(FAST_MODELS))
def test_the_fast_path_renders_what_the_exact_path_renders(conversation: list[Any], model: str) -> None:
    """One renderer for many conversations gives each the body that a renderer of its own would."""
    shared, plan = fast(model)
    outcomes = []
    for renderer in (shared, render):
        try:
            outcomes.append(json.dumps(renderer(plan.request(conversation))))
        except Exception as exc:  # noqa: BLE001 - what is compared
            outcomes.append(type(exc).__name__)
    assert outcomes[0] == outcomes[1]


def test_rendering_leaves_the_callers_objects_alone() -> None:
    """LiteLLM changes what it is given: it is given copies."""
    tools = [json.loads(json.dumps(TOOL))]
    conversation = [{"role": "system", "content": "a"}, {"role": "user", "content": [{"type": "text", "text": "b"}]}]
    before = json.dumps([tools, conversation])
    for model in ("o3-mini", "mistral/mistral-small-latest", "groq/llama-3.1-8b-instant"):
        llmbatch.render_batch_requests([conversation, conversation], model, tools=tools)
    assert json.dumps([tools, conversation]) == before
