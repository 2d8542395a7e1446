"""The chat builder: the seed's Ruby examples in Python, and answers with a history."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import pytest
from pydantic import BaseModel

import llmbatch
from llmbatch import chat
from tests.replies import answer_to, said
from tests.wire import Response

if TYPE_CHECKING:
    from tests.server import Server


def my_tool(city: str) -> str:
    """Today's weather in a city."""
    return city


class Person(BaseModel):
    """Somebody."""

    name: str


def test_basic_usage() -> None:
    """The seed's first example."""
    # Enable batch request mode
    conversation = chat().for_batch_request()
    conversation.add_message(role="user", content="What's 2 + 2?")

    # Returns the request payload instead of making an API call
    payload = conversation.complete()
    assert payload["custom_id"]
    assert payload["method"] == "POST"
    assert payload["url"] == "/v1/chat/completions"
    assert payload["body"] == {"messages": [{"role": "user", "content": "What's 2 + 2?"}], "model": "gpt-4o-mini"}


def test_generating_multiple_batch_requests() -> None:
    """The seed's second example; the ids are unique."""
    requests = []

    for i in range(3):
        conversation = chat().for_batch_request()
        conversation.add_message(role="user", content=f"Question {i + 1}")

        requests.append(conversation.complete())

    assert len({request["custom_id"] for request in requests}) == 3


def test_provider_support() -> None:
    """The seed's third example: OpenAI supports batch requests, Anthropic does not."""
    # OpenAI takes batch requests.
    conversation = chat(model="gpt-4", provider="openai").for_batch_request()
    conversation.add_message(role="user", content="Hello")
    payload = conversation.complete()
    assert payload["body"] == {"messages": [{"role": "user", "content": "Hello"}], "model": "gpt-4"}

    # Other providers do not.
    conversation = chat(provider="anthropic").for_batch_request()
    conversation.add_message(role="user", content="Hello")
    with pytest.raises(NotImplementedError, match="anthropic has no batch support in llmbatch"):
        conversation.complete()


def test_usage_with_other_methods() -> None:
    """The seed's fourth example."""
    conversation = chat().with_model("gpt-4").with_temperature(0.7).with_tool(my_tool).for_batch_request()

    conversation.ask("Process this")
    payload = conversation.complete()  # Returns batch request payload
    assert payload["body"]["model"] == "gpt-4"
    assert payload["body"]["temperature"] == 0.7
    assert payload["body"]["tools"][0]["function"]["name"] == "my_tool"
    assert payload["body"]["messages"] == [{"role": "user", "content": "Process this"}]


@pytest.mark.parametrize("late", [False, True])
def test_methods_chain_in_any_order(late: bool) -> None:
    """Everything that is configured is in the body, before or after `for_batch_request`."""
    conversation = chat() if late else chat().for_batch_request("mine")
    conversation = (
        conversation.with_schema(Person).with_params(seed=7, max_tokens=9).with_instructions("Be brief.")
        .with_tool(my_tool, Person).with_temperature(0).with_model("gpt-4o")
    )  # fmt: skip
    payload = (conversation.for_batch_request("mine") if late else conversation).ask("Who?")
    body = payload["body"]
    assert payload["custom_id"] == "mine"
    assert (body["model"], body["temperature"], body["seed"], body["max_tokens"]) == ("gpt-4o", 0, 7, 9)
    assert body["messages"] == [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Who?"}]
    assert body["response_format"]["json_schema"]["name"] == "Person"
    assert [tool["function"]["name"] for tool in body["tools"]] == ["my_tool", "Person"]
    assert body["tools"][1]["function"]["description"] == "Somebody."


def test_rendering_adds_nothing_to_the_history_and_keeps_its_id() -> None:
    """`complete` may be called again; another chat with the same request gets another id."""
    conversation = chat().for_batch_request()
    first = conversation.ask("What's up?")
    assert conversation.complete() == first
    assert conversation.messages == [{"role": "user", "content": "What's up?"}]
    assert chat().for_batch_request().ask("What's up?")["custom_id"] != first["custom_id"]


def test_streaming_for_batch_requests_raises() -> None:
    """As a callback and as a parameter."""
    with pytest.raises(ValueError, match="Streaming is not supported for batch requests"):
        chat().for_batch_request().ask("x", on_chunk=print)
    with pytest.raises(ValueError, match="Streaming is not supported for batch requests"):
        chat().with_params(stream=True).for_batch_request().ask("x")


def test_instructions_replace_or_add() -> None:
    """The last ones count unless they are appended."""
    conversation = chat().with_instructions("a").with_instructions("b").with_instructions("c", append=True)
    assert [message["content"] for message in conversation.messages] == ["b", "c"]


@pytest.mark.parametrize(
    "schema",
    [
        {"title": "Person", "type": "object", "properties": {"name": {"type": "string"}}},
        {"type": "json_schema", "json_schema": {"name": "Person", "schema": {"type": "object"}, "strict": True}},
    ],
)
def test_schema_as_dict_is_a_response_format(schema: dict[str, Any]) -> None:
    """A JSON schema is wrapped; a whole response_format is not."""
    body = chat().with_schema(schema).for_batch_request().ask("x")["body"]
    assert body["response_format"]["json_schema"]["name"] == "Person"


def test_answers_join_the_history(server: Server) -> None:
    """Each turn sends the whole conversation."""
    conversation = chat("openai/x", api_base=server.api_base, api_key="k").with_instructions("Be brief.")
    answer = conversation.ask("hello")
    assert answer["choices"][0]["message"]["content"] == answer_to("hello")
    conversation.ask("and now?")
    assert [message["role"] for message in server.requests[1].json["messages"]] == [
        "system",
        "user",
        "assistant",
        "user",
    ]
    assert conversation.messages[-1] == {"role": "assistant", "content": answer_to("and now?")}


def test_deltas_arrive_while_the_answer_does(server: Server) -> None:
    """`on_chunk` gets the text piece by piece, the history the whole."""
    pieces: list[str] = []
    conversation = chat("openai/x", api_base=server.api_base, api_key="k")
    conversation.ask("hello", on_chunk=pieces.append)
    assert len(pieces) > 1
    assert "".join(pieces) == answer_to("hello") == conversation.messages[-1]["content"]


def test_tool_calls_come_back_and_can_be_answered(server: Server) -> None:
    """Running the tool is the caller's choice."""
    call = {"id": "c1", "type": "function", "function": {"name": "my_tool", "arguments": '{"city": "Rome"}'}}
    server.enqueue(said(None, "tool_calls", tool_calls=[call]))
    conversation = chat("openai/x", api_base=server.api_base, api_key="k").with_tool(my_tool)
    (asked,) = conversation.ask("weather in Rome?")["choices"][0]["message"]["tool_calls"]
    assert server.requests[0].json["tools"][0]["function"]["name"] == "my_tool"
    result = my_tool(**json.loads(asked["function"]["arguments"]))
    conversation.add_message(role="tool", tool_call_id=asked["id"], content=result).complete()
    sent = server.requests[1].json["messages"]
    assert sent[1]["tool_calls"][0]["id"] == "c1" == sent[2]["tool_call_id"]


def test_failed_request_raises_and_adds_nothing(server: Server) -> None:
    """The question is taken back, so that it can be asked again; what was added by hand stays."""
    conversation = chat("openai/x", api_base=server.api_base, api_key="k").with_instructions("Be brief.")
    server.enqueue(Response(400), Response(400), Response(400))
    with pytest.raises(llmbatch.RequestFailedError, match="scripted 400"):
        conversation.ask("hello")
    with pytest.raises(llmbatch.RequestFailedError):
        conversation.ask("hello", on_chunk=print)
    with pytest.raises(llmbatch.RequestFailedError):
        asyncio.run(conversation.aask("hello"))
    with pytest.raises(ValueError, match="Streaming"):
        chat().for_batch_request().ask("hello", on_chunk=print)
    assert [message["role"] for message in conversation.messages] == ["system"]
    conversation.ask("hello")
    assert [message["role"] for message in conversation.messages] == ["system", "user", "assistant"]
    server.enqueue(Response(400))
    conversation.add_message(role="user", content="by hand")
    with pytest.raises(llmbatch.RequestFailedError):
        conversation.complete()
    assert conversation.messages[-1]["content"] == "by hand"


def streamed(*texts: str, whole: bool = True) -> Response:
    """An answer's event stream, cut before its end unless it is whole."""
    deltas: list[dict[str, Any]] = [
        {"delta": {"role": "assistant", "content": text}, "finish_reason": None} for text in texts
    ]
    choices = [*deltas, {"delta": {}, "finish_reason": "stop"}] if whole else deltas
    head = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "x"}
    events = [json.dumps({**head, "choices": [{"index": 0, **choice}]}) for choice in choices]
    body = "".join(f"data: {event}\n\n" for event in [*events, *(["[DONE]"] if whole else [])])
    return Response(200, {"content-type": "text/event-stream"}, body)


@pytest.mark.parametrize(
    ("again", "given"),
    [
        (("The capital is ", "Paris."), "The capital is Paris."),
        (("The cap", "ital is Paris."), "The capital is Paris."),
        (("It is ", "Paris."), "The capital is \nIt is Paris."),
        (("The capital of it is ", "Paris."), "The capital is \nThe capital of it is Paris."),
        (("The capital",), "The capital is \nThe capital"),
    ],
)
@pytest.mark.usefixtures("quick_backoff")
def test_cut_stream_repeats_no_text(server: Server, again: tuple[str, ...], given: str) -> None:
    """What has come is left out of the next attempt; an answer that begins otherwise comes whole on its own line."""
    pieces: list[str] = []
    server.enqueue(streamed("The ", "capital is ", whole=False), streamed(*again))
    conversation = chat("openai/x", api_base=server.api_base, api_key="k")
    row = conversation.ask("Which?", on_chunk=pieces.append)
    assert "".join(pieces) == given
    assert row["attempts"] == 2
    assert conversation.messages[-1]["content"] == "".join(again)


def test_async_versions_do_the_same(server: Server) -> None:
    """Answers live, payloads for batch requests."""

    async def talk() -> tuple[Any, Any]:
        conversation = chat("openai/x", api_base=server.api_base, api_key="k")
        answer = await conversation.aask("hello")
        return answer, await conversation.for_batch_request().acomplete()

    answer, payload = asyncio.run(talk())
    assert answer["choices"][0]["message"]["content"] == answer_to("hello")
    assert payload["body"]["messages"][-1] == {"role": "assistant", "content": answer_to("hello")}
