"""The embedded model: a real server, a real answer."""

from __future__ import annotations

import contextlib
import sys
from typing import TYPE_CHECKING

import pytest

from llmbatch import BatchResults, create_chat_completion, create_chat_completions_batch, create_embeddings_batch
from llmbatch.local import LocalServer, local_server
from tests.record_cassettes import Place

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="module")
def local(local_model: None) -> Iterator[LocalServer]:
    with local_server(seed=1) as running:
        yield running


def test_the_model_knows_the_capital_of_france(local: LocalServer) -> None:
    """The seed's first question is answered by the embedded model."""
    question = [{"role": "user", "content": "What is the capital of France?"}]
    answer = create_chat_completion(question, max_tokens=20, **local.options)
    assert "Paris" in answer["choices"][0]["message"]["content"]


def test_a_batch_larger_than_the_slots_is_answered_in_order(local: LocalServer) -> None:
    """Rows beyond `n_parallel` wait their turn; usage counts every token."""
    words = ["red", "green", "blue", "black", "white", "pink"]
    conversations = [[{"role": "user", "content": f"Say the word: {word}"}] for word in words]
    results = create_chat_completions_batch(conversations, max_tokens=8, temperature=0, **local.options)
    assert [word in (text or "").lower() for word, text in zip(words, results.texts, strict=True)].count(True) >= 4
    assert 0 < results.usage["completion_tokens"] <= 8 * len(words)
    assert not results.failed


def test_an_answer_follows_a_json_schema(local: LocalServer) -> None:
    """llama.cpp's grammar makes even a tiny model answer in the shape of a pydantic model."""
    question = [{"role": "user", "content": "In which city and country is the Eiffel Tower?"}]
    results = create_chat_completions_batch([question], response_format=Place, max_tokens=60, **local.options)
    assert isinstance(results.raise_for_errors().parsed[0], Place)


def test_embeddings_come_from_the_same_server(local: LocalServer) -> None:
    """Texts of a kind are nearer to each other than to another kind."""
    cat, dog, physics = create_embeddings_batch(["a cat", "a dog", "quantum field theory"], **local.options).embeddings
    assert cat is not None
    assert dog is not None
    assert physics is not None
    assert len(cat) == 576

    def nearness(a: list[float], b: list[float]) -> float:
        return sum(x * y for x, y in zip(a, b, strict=True))

    assert nearness(cat, dog) > nearness(cat, physics)


def test_a_prompt_beyond_the_context_is_that_rows_error(local: LocalServer) -> None:
    """A refused row says so and leaves the others alone."""
    contents = ["word " * 3000, "Say hello."]
    results = create_chat_completions_batch(
        [[{"role": "user", "content": content}] for content in contents], max_tokens=8, **local.options
    )
    assert ["error" in row for row in results] == [True, False]
    assert results[0]["error_details"]["retryable"] is False


@pytest.mark.usefixtures("local_model")
def test_a_server_can_be_closed_as_soon_as_it_is_there() -> None:
    """Closing frees the port; closing twice is fine."""
    import socket

    running = local_server(n_parallel=1)
    host, port = running.api_base.removeprefix("http://").removesuffix("/v1").split(":")
    running.close()
    running.close()
    # The system may have given the port to another test's server by now, which knows no such model.
    refused = contextlib.suppress(ConnectionRefusedError, TimeoutError)
    with refused, socket.create_connection((host, int(port)), timeout=5) as other:
        other.sendall(b"GET /v1/models HTTP/1.0\r\n\r\n")
        assert b"llamacpp" not in other.recv(4096)


@pytest.mark.usefixtures("local_model")
def test_closing_waits_for_the_requests_being_answered() -> None:
    """The close returns although rows are in flight, and every row has an outcome."""
    import threading

    running = local_server(n_parallel=2)
    conversations = [[{"role": "user", "content": "What is the capital of France?"}]] * 3
    results: list[BatchResults] = []
    first_done = threading.Event()

    def ask() -> None:
        rows = create_chat_completions_batch(
            conversations, max_tokens=8, on_result=lambda *_: first_done.set(), **running.options
        )
        results.append(rows)

    asking = threading.Thread(target=ask)
    asking.start()
    first_done.wait(120)
    running.close()
    asking.join(120)
    assert [bool(text) for text in results[0].texts] == [True] * 3


def test_without_the_extra_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """The message names the extra."""
    monkeypatch.setitem(sys.modules, "xllamacpp", None)
    with pytest.raises(ImportError, match=r"llmbatch\[local\]"):
        local_server()


def test_n_parallel_below_one_is_misuse() -> None:
    """A server that answers nobody is refused before anything starts."""
    with pytest.raises(ValueError, match="at least 1"):
        local_server(n_parallel=0)
