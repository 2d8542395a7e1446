"""Misuse raises before anything is sent, and says what to do instead."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

import llmbatch

if TYPE_CHECKING:
    from tests.server import Server

HI = {"role": "user", "content": "Hi"}


@pytest.mark.parametrize(
    ("arguments", "error", "mend"),
    [
        ({"messages_list": [HI]}, TypeError, r"pass \[messages\]"),
        ({"messages_list": "Hi"}, TypeError, "pass a list of conversations"),
        ({"messages_list": (HI, HI)}, TypeError, r"pass \[messages\]"),
        ({"messages_list": HI}, TypeError, "pass a list of conversations"),
        ({"messages_list": 3}, TypeError, "pass a list of conversations"),
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
        ({"max_worker": 3}, ValueError, "did you mean max_workers"),
        ({"request_per_minute": 3}, ValueError, "did you mean requests_per_minute"),
        ({"num_retries": 3}, ValueError, "use retries="),
        ({"fallbacks": "gpt-4o"}, TypeError, "put it in a list"),
        ({"custom_ids": ["a", "a"], "messages_list": [[HI], [HI]]}, ValueError, "an id twice"),
        ({"custom_ids": ["a"], "messages_list": [[HI], [HI]]}, ValueError, "1 ids for 2 rows"),
        ({"on_result": 3}, TypeError, "function"),
        ({"max_cost": 1.0, "model": "openai/unpriced-model"}, ValueError, "needs a price"),
    ],
)
def test_misuse_raises_with_the_mend(server: Server, arguments: dict[str, Any], error: type, mend: str) -> None:
    """The call as a whole is refused, nothing is sent, and the message carries the fix."""
    given = {"messages_list": [[HI]], "model": "openai/gpt-4o-mini", "api_key": "sk-test", **arguments}
    if given["model"] != "no-such-model":
        given["api_base"] = server.api_base
    with pytest.raises(error, match=mend):
        llmbatch.create_chat_completions_batch(**given)
    assert not server.requests


def test_misuse_of_a_single_completion_raises(server: Server) -> None:
    """A conversation that cannot be sent is a ValueError there, not a failed request."""
    with pytest.raises(ValueError, match="no messages"):
        llmbatch.create_chat_completion([], api_base=server.api_base)
    with pytest.raises(ValueError, match="must be a list of messages"):
        llmbatch.create_chat_completion("Hi", api_base=server.api_base)  # type: ignore[arg-type]


def test_an_iterator_form_raises_at_the_call(server: Server) -> None:
    """as_completed and stream_chat_completions_batch refuse misuse when called, not at the first row."""
    with pytest.raises(ValueError, match="at least 1"):
        llmbatch.as_completed([[HI]], "openai/x", max_workers=0, api_base=server.api_base)
    with pytest.raises(ValueError, match="at least 1"):
        llmbatch.stream_chat_completions_batch([[HI]], "openai/x", max_workers=0, api_base=server.api_base)


def test_litellms_own_arguments_are_no_misspellings(server: Server) -> None:
    """Arguments that LiteLLM or the provider knows pass through."""
    results = llmbatch.create_chat_completions_batch(
        [[HI]], "openai/gpt-4o-mini", api_base=server.api_base, api_key="sk-test", stop=["\n"], user="me",
        max_completion_tokens=5, max_tokens=None, metadata={"run": 1}, extra_headers={"X-Mine": "yes"},
    )  # fmt: skip
    assert not results.failed
    assert server.requests[0].json["max_completion_tokens"] == 5
    assert server.requests[0].headers["x-mine"] == "yes"
    assert "metadata" not in server.requests[0].json


@pytest.mark.parametrize(
    ("option", "mend"),
    [({"max_workers": 0}, "at least 1"), ({"retries": -1}, "at least 0"), ({"timeout": 0}, "more than 0")],
)
def test_a_batch_as_a_job_is_checked_alike(server: Server, option: dict[str, Any], mend: str) -> None:
    """Options that a job does not need are not left unread: the same call may run live tomorrow."""
    with pytest.raises(ValueError, match=mend):
        llmbatch.create_chat_completions_batch(
            [[HI]], "openai/gpt-4o-mini", batch_job=True, api_base=server.api_base, api_key="k", **option
        )
    assert not server.requests
