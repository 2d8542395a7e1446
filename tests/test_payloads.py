"""Payloads are made, written and read without sending anything."""

from __future__ import annotations

import json
import tracemalloc
from typing import TYPE_CHECKING, Any

import pytest

import llmbatch
from llmbatch.providers import registry

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path


def asked(count: int) -> Iterator[list[dict[str, str]]]:
    return ([{"role": "user", "content": f"What is {i} + 1?"}] for i in range(count))


def test_payload_has_four_keys() -> None:
    """And the very body of the live call."""
    (payload,) = llmbatch.render_batch_requests(asked(1), "gpt-4o-mini", seed=1)
    assert list(payload) == ["custom_id", "method", "url", "body"]
    assert (payload["method"], payload["url"]) == ("POST", "/v1/chat/completions")
    assert payload["body"] == {
        "messages": [{"role": "user", "content": "What is 0 + 1?"}],
        "model": "gpt-4o-mini", "max_tokens": 200, "seed": 1, "temperature": 0.3,
    }  # fmt: skip


def test_ids_are_stable_unique_and_replaceable() -> None:
    """The same from run to run, numbered for duplicates, or the caller's own."""
    conversations = [*asked(3), *asked(1)]
    ids = [payload["custom_id"] for payload in llmbatch.render_batch_requests(conversations)]
    assert ids == [payload["custom_id"] for payload in llmbatch.render_batch_requests(conversations)]
    assert len(set(ids)) == 4
    assert ids[3] == f"{ids[0]}-2"
    given = llmbatch.render_batch_requests(conversations, custom_ids=["a", "b", "c", "d"])
    assert [payload["custom_id"] for payload in given] == ["a", "b", "c", "d"]


@pytest.mark.parametrize(
    ("ids", "why"),
    [(["a"], "fewer"), (["a", "b", "c"], "more"), (["a", "a"], "duplicate custom_id"), (["", "b"], "non-empty")],
)
def test_ids_that_do_not_fit_the_rows_raise(ids: list[str], why: str) -> None:
    """Before anything could be joined wrongly."""
    with pytest.raises(ValueError, match=why):
        llmbatch.render_batch_requests(asked(2), custom_ids=ids)


def test_row_that_cannot_be_sent_raises_with_its_number() -> None:
    """Rendering has no error rows to put it in."""
    with pytest.raises(ValueError, match="row 1: a conversation must be a list"):
        llmbatch.render_batch_requests([*asked(1), 7])


def test_options_of_live_runs_are_not_in_the_payload() -> None:
    """The arguments of a live call can be passed as they are."""
    assert llmbatch.render_batch_requests(asked(1), max_workers=3, retries=0, timeout=5) == (
        llmbatch.render_batch_requests(asked(1))
    )


@pytest.mark.parametrize(
    "model",
    [
        "anthropic/claude-sonnet-4-5",
        "deepseek/deepseek-chat",
        "ollama/llama3",
        "openrouter/openai/gpt-4o",
        "gemini/gemini-2.0-flash",
        "together_ai/x",
    ],
)
def test_provider_without_batch_support_raises(model: str) -> None:
    """The error names the provider and the method to implement."""
    with pytest.raises(
        NotImplementedError, match=rf"{model.split('/', maxsplit=1)[0]} .* render_payload_for_batch_request"
    ):
        llmbatch.render_batch_requests(asked(1), model)


@pytest.mark.parametrize(
    "model",
    ["gpt-4o", "azure/x", "hosted_vllm/x", "groq/llama-3.1-8b-instant", "mistral/mistral-small-latest", "xai/grok-3"],
)
def test_providers_with_batch_support_render_lines(model: str) -> None:
    """Azure's path has no version."""
    (payload,) = llmbatch.render_batch_requests(asked(1), model)
    assert payload["url"] == ("/chat/completions" if model.startswith("azure") else "/v1/chat/completions")


def test_registered_provider_renders_its_own_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    """`register_provider` adds one, and the base class renders the body."""
    monkeypatch.setattr(registry, "_providers", dict(registry._providers))

    @llmbatch.register_provider
    class Together(llmbatch.Provider):
        name = "together_ai"

        def render_payload_for_batch_request(self, request: Mapping[str, Any], custom_id: str) -> Any:
            return {"custom_id": custom_id, "body": self.render_body(request)}

    (payload,) = llmbatch.render_batch_requests(asked(1), "together_ai/x", temperature=None, max_tokens=None)
    assert payload["body"] == {"model": "x", "messages": next(asked(1))}
    with pytest.raises(TypeError, match="subclass"):
        llmbatch.register_provider(str)  # type: ignore[type-var]
    with pytest.raises(ValueError, match="has no name"):
        llmbatch.register_provider(type("Nameless", (llmbatch.Provider,), {}))


def test_embeddings_are_rendered_text_by_text() -> None:
    """One line a text, for the embeddings endpoint."""
    first, second = llmbatch.render_embeddings_requests(["a", "b"], dimensions=8)
    assert first["url"] == "/v1/embeddings"
    assert first["body"] == {
        "input": "a",
        "model": "text-embedding-3-small",
        "dimensions": 8,
        "encoding_format": "float",
    }
    assert first["custom_id"] != second["custom_id"]


def test_batch_file_is_written_and_read_as_a_stream(tmp_path: Path) -> None:
    """What is read is what was rendered."""
    path = tmp_path / "batch.jsonl"
    assert llmbatch.write_batch_file(path, llmbatch.stream_batch_requests(asked(50))) == 50
    assert list(llmbatch.read_batch_file(path)) == llmbatch.render_batch_requests(asked(50))
    assert len(path.read_text("utf-8").splitlines()) == 50


def test_failed_write_leaves_no_file(tmp_path: Path) -> None:
    """Half a batch file would be a smaller batch."""
    path = tmp_path / "batch.jsonl"
    with pytest.raises(ValueError, match="row 2"):
        llmbatch.write_batch_file(path, llmbatch.stream_batch_requests([*asked(2), 7]))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("lines", "why"),
    [
        (["{bad"], "line 1: not JSON"),
        (["[]"], "line 1: a payload must be an object"),
        (["", '{"custom_id": "a"}'], "line 2: the payload has no method, url, body"),
        (['{"custom_id": "a", "method": "POST", "url": "/v1/x", "body": {"m": 1}}'], "the body has no model"),
    ],
)
def test_invalid_line_raises_with_its_number(tmp_path: Path, lines: list[str], why: str) -> None:
    """As an editor counts."""
    path = tmp_path / "batch.jsonl"
    path.write_text("\n".join(lines), "utf-8")
    with pytest.raises(ValueError, match=why):
        list(llmbatch.read_batch_file(path))


def test_file_that_providers_reject_raises(tmp_path: Path) -> None:
    """An id twice, two models, two endpoints."""
    a, b = llmbatch.render_batch_requests(asked(2))
    (other,) = llmbatch.render_batch_requests(asked(1), "gpt-4o")
    (vector,) = llmbatch.render_embeddings_requests(["x"])
    vector["body"]["model"] = a["body"]["model"]
    for payloads, why in (([a, b, a], "duplicate custom_id"), ([a, other], "one model"), ([a, vector], "one endpoint")):
        with pytest.raises(ValueError, match=why):
            llmbatch.write_batch_file(tmp_path / "x.jsonl", payloads)


def test_memory_does_not_grow_with_the_rows(tmp_path: Path) -> None:
    """Ten times the rows take a few bytes a row more, for their ids."""
    llmbatch.write_batch_file(tmp_path / "warm.jsonl", llmbatch.stream_batch_requests(asked(10)))
    peaks = []
    for count in (300, 3000):
        tracemalloc.start()
        llmbatch.write_batch_file(tmp_path / "x.jsonl", llmbatch.stream_batch_requests(asked(count)))
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] - peaks[0] < 2700 * 400  # two sets of bytearrays start at some 150 bytes a bucket
    assert json.loads((tmp_path / "x.jsonl").read_text("utf-8").splitlines()[-1])["body"]["messages"]
