"""What a caller passes becomes LiteLLM's arguments in one place; misuse says its mend."""

from __future__ import annotations

import inspect
import json
from typing import Any

import pytest
from pydantic import BaseModel

import llmbatch
from llmbatch._request.messages import check_messages_list, checked_messages
from llmbatch._request.plans import DEFAULT_MAX_TOKENS, DEFAULT_TEMPERATURE, plan_chat
from llmbatch._util.identity import CustomIds, custom_id_for, fingerprints
from tests.talk import script

HELLO = [{"role": "user", "content": "hello"}]


def plan(
    model: str | None = "gpt-4o-mini",
    temperature: Any = DEFAULT_TEMPERATURE,
    max_tokens: Any = DEFAULT_MAX_TOKENS,
    **kwargs: Any,
) -> Any:
    return plan_chat(model, temperature, max_tokens, **kwargs)


def test_signature_shows_default_values() -> None:
    """`help()` says 0.3 and 200."""
    shown = str(inspect.signature(llmbatch.render_batch_requests))
    assert "temperature: 'float | None' = 0.3, max_tokens: 'int | None' = 200" in shown


@pytest.mark.parametrize(
    ("model", "sent"),
    [("gpt-4o-mini", {"temperature": 0.3, "max_tokens": 200}), ("o3-mini", {}), ("gpt-5", {})],
)
def test_defaults_are_sent_only_to_models_that_accept_them(model: str, sent: dict[str, Any]) -> None:
    """A reasoning model gets neither; an equal value of the caller's own is always sent; None leaves it out."""
    params = plan(model).params
    assert {k: v for k, v in params.items() if k in {"temperature", "max_tokens"}} == sent
    assert plan(model, 0.3, 200).params.items() >= {"temperature": 0.3, "max_tokens": 200}.items()
    assert not plan(model, None, None).params.keys() & {"temperature", "max_tokens"}


def test_max_completion_tokens_replaces_the_default_limit() -> None:
    """Providers refuse both together."""
    assert "max_tokens" not in plan(max_completion_tokens=50).params


@pytest.mark.parametrize(
    ("arguments", "kind", "fix"),
    [
        ({"model": " "}, ValueError, "MODEL_CHOICE"),
        ({"temperature": "hot"}, TypeError, "must be a number"),
        ({"temperature": True}, TypeError, "a number"),
        ({"max_tokens": 1.5}, TypeError, "whole number"),
        ({"check_point": "x"}, ValueError, "checkpoint="),
        ({"max_retries": 3}, ValueError, "Use retries="),
        ({"stream": True}, ValueError, "whole answers"),
        ({"api_base": 7}, TypeError, "api_base must be a string"),
        ({"tools": [7]}, TypeError, "typed function"),
    ],
)
def test_plan_with_misuse_raises_and_says_the_fix(arguments: dict[str, Any], kind: type[Exception], fix: str) -> None:
    """Where the arguments are read, before there is a request."""
    with pytest.raises(kind, match=fix):
        plan(**arguments)


@pytest.mark.parametrize("name", ["top_p", "stop", "seed", "n", "user", "metadata", "max_completion_tokens", "foo"])
def test_unknown_and_litellms_parameters_pass_through(name: str) -> None:
    """And so does what nobody knows, unless it looks like one of llmbatch's own options."""
    assert plan(**{name: 1}).params[name] == 1


def test_plan_repr_shows_no_key() -> None:
    """Its repr holds neither keys nor parameters."""
    made = plan(
        api_key="sk-very-secret", extra_headers={"Authorization": "Bearer also-secret"}, openai_organization="x"
    )
    assert "secret" not in repr(made)


def test_requests_are_copies() -> None:
    """LiteLLM changes what it is given."""
    metadata, messages = {"a": []}, [{"role": "user", "content": [{"type": "text", "text": "x"}]}]
    made = plan(metadata=metadata)
    first, second = made.request(messages), made.request(messages)
    first["metadata"]["a"].append(1)
    first["messages"][0]["content"][0]["text"] = "y"
    assert second["metadata"] == {"a": []} == metadata
    assert second["messages"] == messages == [{"role": "user", "content": [{"type": "text", "text": "x"}]}]


def test_generator_loses_no_item_when_checked() -> None:
    """Looking at it loses nothing."""
    items, count = check_messages_list([{"role": "user", "content": str(i)}] for i in range(5))
    assert count is None
    assert [item[0]["content"] for item in items] == ["0", "1", "2", "3", "4"]


class Model(BaseModel):
    role: str
    content: str | None


def test_messages_as_objects_and_tuples_become_dicts() -> None:
    """Pydantic's and LiteLLM's messages become plain dicts."""
    assert checked_messages((Model(role="user", content="x"),)) == [{"role": "user", "content": "x"}]


@pytest.mark.parametrize(
    "row",
    [
        [], "SECRET", None, {"role": "user"}, ["SECRET"], [{"content": "SECRET"}], [{"role": "user"}], [[]],
        [{"role": "user", "content": {"SECRET"}}], [{"role": "user", "content": float("nan")}],
        [{"role": "user", "content": "SECRET \ud800"}], [{"role": 7, "content": "SECRET"}], 7, b"SECRET",
    ],
)  # fmt: skip
def test_invalid_row_error_has_no_content_of_it(row: Any) -> None:
    """One line, a ValueError, nothing of the prompt."""
    with pytest.raises(ValueError, match=r".") as caught:
        checked_messages(row)
    assert "SECRET" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_ids_depend_on_the_request_only() -> None:
    """Not on keys, addresses or timeouts; duplicates are numbered."""
    here = plan(api_key="a", api_base="http://127.0.0.1:1/v1", metadata={"x": 1}).request(HELLO)
    there = plan(api_key="b", api_base="http://127.0.0.1:2/v1").request(HELLO)
    assert custom_id_for(here) == custom_id_for(there)
    assert custom_id_for(here, 2) == custom_id_for(here) + "-2"
    ids = CustomIds()
    assert [ids(here), ids(there), ids(plan(temperature=0.7).request(HELLO)), ids(here)] == [
        custom_id_for(here), f"{custom_id_for(here)}-2",
        custom_id_for(plan(temperature=0.7).request(HELLO)), f"{custom_id_for(here)}-3",
    ]  # fmt: skip


def test_fingerprints_name_the_changed_field() -> None:
    """One digest a field."""
    before = fingerprints(plan(seed=1, response_format=Model).request(HELLO))
    after = fingerprints(plan(seed=2, response_format=Model).request(HELLO))
    assert {name for name in before if before[name] != after[name]} == {"seed"}


@pytest.mark.processes
def test_ids_in_another_process_are_the_same() -> None:
    """They do not hang on hash seeds, not even with a pydantic class among the parameters."""
    code = (
        "from pydantic import BaseModel\n"
        "from llmbatch._util.identity import custom_id_for\n"
        "class Model(BaseModel):\n    role: str\n    content: str | None\n"
        "print(custom_id_for({'model': 'x', 'messages': [], 'response_format': Model, 'tools': [{'a': {'x', 'y'}}]}))"
    )
    said = []
    for _ in range(2):
        with script(code) as process:
            said.append(process.communicate(timeout=240))
    assert said[0] == said[1]
    assert said[0][0].startswith("req-")


def test_typed_function_becomes_tool() -> None:
    """Parameters from its annotations, the description from its docstring."""

    def get_weather(city: str, days: int = 1) -> str:
        """Today's weather."""
        return city * days

    (tool,) = plan(tools=[get_weather]).params["tools"]
    assert tool["function"]["name"] == "get_weather"
    assert tool["function"]["description"] == "Today's weather."
    assert tool["function"]["parameters"]["required"] == ["city"]
    (tool,) = plan(tools=[Model]).params["tools"]
    assert json.loads(json.dumps(tool))["function"]["name"] == "Model"
