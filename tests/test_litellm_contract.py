"""LiteLLM's internals are as the fast path expects; where they are not, it has switched itself off and this says so."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import llmbatch
from llmbatch._litellm import fast

if TYPE_CHECKING:
    import pytest

    from tests.server import Server


def test_requests_are_built_on_the_loop_without_payloads_for_callbacks(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each row is built inline once, with the quiet logging object."""
    inlined: list[bool] = []
    quiet: list[Any] = []
    builds, logging = fast._builds_a_request, fast.logging_arguments

    def seen_building(fn: Any) -> bool:
        inlined.append(builds(fn))
        return inlined[-1]

    def seen_logging(request: Any) -> Any:
        quiet.append(logging(request))
        return quiet[-1]

    monkeypatch.setattr(fast, "_builds_a_request", seen_building)
    monkeypatch.setattr(fast, "logging_arguments", seen_logging)
    chats = [[{"role": "user", "content": f"Question {i}?"}] for i in range(4)]
    results = llmbatch.create_chat_completions_batch(
        chats, "openai/gpt-4o-mini", api_base=server.api_base, api_key="sk-test"
    )
    assert not results.failed
    assert inlined.count(True) == 4
    assert [list(given) for given in quiet] == [["litellm_logging_obj"]] * 4
