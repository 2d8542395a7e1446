"""Misuse raises before anything is sent, and says what to do instead."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

import llmbatch

if TYPE_CHECKING:
    from tests.server import Server

HI = {"role": "user", "content": "Hi"}
NUMBERS = ("max_cost", "timeout", "deadline", "requests_per_minute", "tokens_per_minute", "temperature")


@pytest.mark.parametrize(
    ("arguments", "error", "fix"),
    [
        ({"messages_list": [HI]}, TypeError, r"Pass a list: \[messages\]"),
        ({"messages_list": "Hi"}, TypeError, "Pass a list of conversations"),
        ({"messages_list": (HI, HI)}, TypeError, r"Pass a list: \[messages\]"),
        ({"messages_list": HI}, TypeError, "Pass a list of conversations"),
        ({"messages_list": 3}, TypeError, "Pass a list of conversations"),
        ({"max_workers": 0}, ValueError, "at least 1"),
        ({"max_workers": "many"}, TypeError, '"auto"'),
        ({"max_workers": True}, TypeError, '"auto"'),
        ({"retries": -1}, ValueError, "at least 0"),
        ({"timeout": 0}, ValueError, "more than 0"),
        ({"requests_per_minute": "60"}, TypeError, "must be a number"),
        ({"model": "no-such-model"}, ValueError, "openai/no-such-model"),
        ({"model": 3}, TypeError, "gpt-4o-mini"),
        ({"temperature": 3}, ValueError, "between 0 and 2"),
        ({"max_tokens": 0}, ValueError, "at least 1"),
        ({"n": "3"}, TypeError, "n must be a whole number"),
        ({"max_completion_tokens": [5]}, TypeError, "max_completion_tokens must be a whole number"),
        ({"max_worker": 3}, ValueError, "Did you mean max_workers"),
        ({"request_per_minute": 3}, ValueError, "Did you mean requests_per_minute"),
        ({"num_retries": 3}, ValueError, "Use retries="),
        ({"system": 3}, TypeError, "system must be a string"),
        ({"system": " "}, ValueError, "system must be a non-empty string"),
        ({"dry_run": "yes"}, TypeError, "dry_run must be True or False"),
        ({"completion_window": "24h"}, ValueError, "for batch jobs"),
        ({"concurrency": 5}, ValueError, "Use max_workers="),
        ({"max_concurrency": 5}, ValueError, "Use max_workers="),
        ({"max_parallel_requests": 5}, ValueError, "Use max_workers="),
        ({"batch_size": 5}, ValueError, "Use max_workers="),
        ({"temprature": 1}, ValueError, "Did you mean temperature="),
        ({"responseformat": {}}, ValueError, "Did you mean response_format="),
        ({"fallbacks": [{"model": "gpt-4o", "apikey": "x"}]}, ValueError, "Did you mean api_key="),
        ({"fallbacks": "gpt-4o"}, TypeError, "Put it in a list"),
        ({"fallbacks": ["gpt-4o", None]}, TypeError, "models' names or dicts"),
        ({"fallbacks": [{"model": "gpt-4o", "retries": 2}]}, ValueError, "option of the whole batch"),
        ({"fallbacks": 5}, TypeError, "Put it in a list"),
        ({"custom_ids": "ab", "messages_list": [[HI], [HI]]}, TypeError, "Put it in a list"),
        ({"custom_ids": ["a", 2], "messages_list": [[HI], [HI]]}, ValueError, r"str\(id\)"),
        *(({name: float(value)}, ValueError, "finite") for value in ("nan", "inf") for name in NUMBERS),
        ({"custom_ids": ["a", "a"], "messages_list": [[HI], [HI]]}, ValueError, "duplicate custom_id"),
        ({"custom_ids": ["a"], "messages_list": [[HI], [HI]]}, ValueError, "1 ids for 2 rows"),
        ({"on_result": 3}, TypeError, "function"),
        ({"on_result": asyncio.sleep}, TypeError, "not an async function"),
        ({"validate": asyncio.sleep}, TypeError, "not an async function"),
        ({"max_cost": 1.0, "model": "openai/unpriced-model"}, ValueError, "needs a price"),
    ],
)
def test_list_call_with_misuse_raises_and_says_the_fix(
    server: Server, arguments: dict[str, Any], error: type, fix: str
) -> None:
    """The call as a whole is rejected, nothing is sent, and the message says what to do."""
    given = {"messages_list": [[HI]], "model": "openai/gpt-4o-mini", "api_key": "sk-test", **arguments}
    if given["model"] != "no-such-model":
        given["api_base"] = server.api_base
    with pytest.raises(error, match=fix):
        llmbatch.create_chat_completions_batch(**given)
    assert not server.requests


def test_single_completion_with_misuse_raises(server: Server) -> None:
    """A conversation that cannot be sent is a ValueError there, not a failed request."""
    with pytest.raises(ValueError, match="no messages"):
        llmbatch.create_chat_completion([], api_base=server.api_base)
    with pytest.raises(ValueError, match="prompt is missing"):
        llmbatch.create_chat_completion(None, api_base=server.api_base)  # type: ignore[arg-type]


def test_iterator_form_with_misuse_raises_at_the_call(server: Server) -> None:
    """as_completed and stream_chat_completions_batch reject misuse when called, not at the first row."""
    with pytest.raises(ValueError, match="at least 1"):
        llmbatch.as_completed([[HI]], "openai/x", max_workers=0, api_base=server.api_base)
    with pytest.raises(ValueError, match="at least 1"):
        llmbatch.stream_chat_completions_batch([[HI]], "openai/x", max_workers=0, api_base=server.api_base)


def test_arguments_that_litellm_or_the_provider_knows_pass(server: Server) -> None:
    """Arguments that LiteLLM or the provider knows pass through."""
    results = llmbatch.create_chat_completions_batch(
        [[HI]], "openai/gpt-4o-mini", api_base=server.api_base, api_key="sk-test", stop=["\n"], user="me",
        max_completion_tokens=5, max_tokens=None, metadata={"run": 1}, extra_headers={"X-Mine": "yes"},
        reasoning_format="raw", models=["a", "b"], top_k=3, quite_new=True,
    )  # fmt: skip
    assert not results.failed
    assert server.requests[0].json["models"] == ["a", "b"]
    assert server.requests[0].json["quite_new"] is True
    assert server.requests[0].json["max_completion_tokens"] == 5
    assert server.requests[0].headers["x-mine"] == "yes"
    assert "metadata" not in server.requests[0].json


@pytest.mark.parametrize(
    ("option", "fix"),
    [({"max_workers": 0}, "at least 1"), ({"retries": -1}, "at least 0"), ({"timeout": 0}, "more than 0")],
)
def test_batch_as_job_with_misuse_raises(server: Server, option: dict[str, Any], fix: str) -> None:
    """Options that a job does not need are not left unread: the same call may run live tomorrow."""
    with pytest.raises(ValueError, match=fix):
        llmbatch.create_chat_completions_batch(
            [[HI]], "openai/gpt-4o-mini", batch_job=True, api_base=server.api_base, api_key="k", **option
        )
    assert not server.requests


def test_columns_and_generators_keep_their_order(server: Server) -> None:
    """A filtered column (whose index has gaps), a generator of ids, and None where nothing is meant."""
    pd = pytest.importorskip("pandas")
    frame = pd.DataFrame({"id": ["a", "b", "c"], "text": ["no", "yes", "yes"]}).query("text == 'yes'")
    chats = frame["text"].map(lambda text: [{"role": "user", "content": text}])
    given = {"api_base": server.api_base, "api_key": "sk-test", "progress": False}
    results = llmbatch.create_chat_completions_batch(
        chats, "openai/gpt-4o-mini", custom_ids=frame["id"], fallbacks=None, **given
    )
    assert [row["custom_id"] for row in results] == ["b", "c"]
    assert not results.failed
    ids: Any = (f"id-{at}" for at in range(2))
    results = llmbatch.create_embeddings_batch(frame["text"], "openai/e", custom_ids=ids, **given)
    assert [row["custom_id"] for row in results] == ["id-0", "id-1"]
    assert not results.failed


def test_generator_with_too_few_ids_raises(server: Server) -> None:
    """When the row comes that has none."""
    with pytest.raises(ValueError, match=r"has 2 ids, fewer than there are rows\. Give each row one"):
        llmbatch.create_chat_completions_batch(
            ([HI] for _ in range(9)), "openai/gpt-4o-mini", custom_ids=["a", "b"], max_workers=1,
            api_base=server.api_base, api_key="sk-test", progress=False,
        )  # fmt: skip
    assert len(server.requests) == 2
