"""A dry run says what a batch would send and cost, and sends nothing."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

import llmbatch
from llmbatch.integrations.frames import complete_column

if TYPE_CHECKING:
    from tests.server import Server

MODEL = "openai/gpt-4o-mini"


@pytest.fixture
def place(server: Server) -> dict[str, Any]:
    return {"api_base": server.api_base, "api_key": "sk-secret-key"}


def test_dry_run_shows_payloads_and_estimate(server: Server, place: dict[str, Any]) -> None:
    """The payloads and the estimate of the functions for them; a generator is read once; no key shows."""
    requests: list[Any] = ["one", {"prompt": "two", "seed": 3, "model": "openai/gpt-4o"}, 7]
    dry: Any = llmbatch.create_chat_completions_batch(iter(requests), MODEL, dry_run=True, system="Be brief.", **place)
    assert dry.payloads == llmbatch.render_batch_requests(requests[:2], MODEL, system="Be brief.")
    assert dry.estimate == llmbatch.estimate_batch(requests, MODEL, system="Be brief.", **place)
    assert list(dry.invalid) == [2]
    assert "2 requests would be sent, nothing was sent" in str(dry) == repr(dry)
    assert "one" in str(dry)
    assert "lane" in str(dry)
    assert "sk-secret" not in str(dry)
    assert not server.requests


def test_dry_run_of_provider_without_batch_lines_shows_litellms_arguments(server: Server, log: list[str]) -> None:
    """Without keys and addresses."""
    dry: Any = asyncio.run(
        llmbatch.acreate_chat_completions_batch(
            ["one"], "anthropic/claude-sonnet-4-5", dry_run=True, api_key="sk-secret-key", custom_ids=["mine"]
        )
    )
    (payload,) = dry.payloads
    assert payload["custom_id"] == "mine"
    assert payload["arguments"]["messages"] == [{"role": "user", "content": "one"}]
    assert "sk-secret" not in f"{dry}{log}"
    assert dry.estimate.lanes["job"].missing
    assert not server.requests


def test_dry_run_of_embeddings(server: Server, place: dict[str, Any]) -> None:
    """Each text by itself, and its price by the token."""
    dry: Any = llmbatch.create_embeddings_batch(
        ["a cat", "a dog", None],
        "openai/text-embedding-3-small",
        dry_run=True,
        dimensions=8,
        **place,  # type: ignore[list-item]
    )
    assert dry.payloads == llmbatch.render_embeddings_requests(
        ["a cat", "a dog"], "openai/text-embedding-3-small", dimensions=8
    )
    assert dry.invalid == {2: "text is missing"}
    assert dry.estimate.completion_tokens == 0
    assert dry.estimate.live_cost == pytest.approx(dry.estimate.prompt_tokens * 0.02e-6)
    assert "upper bound" not in str(dry)
    assert not server.requests


def test_dry_run_of_lanes_and_tables(server: Server, place: dict[str, Any]) -> None:
    """A job's lane is checked as a run would; a table's dry run is one too."""
    pd = pytest.importorskip("pandas")
    dry: Any = llmbatch.create_chat_completions_batch(["a"], MODEL, lane="job", dry_run=True, **place)
    assert len(dry.payloads) == 1
    flex: Any = llmbatch.create_chat_completions_batch(["a"], "openai/gpt-5-mini", lane="flex", dry_run=True, **place)
    assert flex.payloads[0]["body"]["service_tier"] == "flex"
    assert isinstance(complete_column(pd.DataFrame({"t": ["a"]}), "{t}", MODEL, dry_run=True, **place), llmbatch.DryRun)
    with pytest.raises(ValueError, match="max_workers must be at least 1"):
        llmbatch.create_chat_completions_batch(["a"], MODEL, dry_run=True, max_workers=0, **place)
    assert not server.requests


def test_dry_run_raises_where_rows_are_expected(server: Server, place: dict[str, Any]) -> None:
    """Nothing is sent where a dry run has no result."""
    for call in (
        lambda: llmbatch.as_completed(["a"], MODEL, dry_run=True, **place),
        lambda: llmbatch.stream_chat_completions_batch(["a"], MODEL, dry_run=True, **place),
        lambda: llmbatch.create_chat_completion("a", MODEL, dry_run=True, **place),
        lambda: llmbatch.submit_batch_job(["a"], MODEL, dry_run=True, **place),
        lambda: llmbatch.chat(MODEL, dry_run=True, **place).ask("a"),
    ):
        with pytest.raises(ValueError, match="dry_run=True is for"):
            call()
    assert not server.requests
