"""Embeddings: many texts in a request, a row for each text."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

import llmbatch
from tests.server import Response, vector_for
from tests.talk import place

if TYPE_CHECKING:
    from tests.server import Request, Server


def embed(server: Server, texts: Any, **options: Any) -> llmbatch.BatchResults:
    options = {"model": "openai/text-embedding-3-small", **options}
    return llmbatch.create_embeddings_batch(texts, **place(server.api_base, **options))


def test_texts_are_sent_in_chunks_and_come_back_in_order(server: Server) -> None:
    """95 texts in chunks of 20: 5 requests, 95 vectors in order, usage and cost that add up."""
    texts = [f"text number {i}" for i in range(95)]
    results = embed(server, texts)
    assert results.embeddings == [vector_for(text) for text in texts]
    assert len(server.requests) == 5
    assert results.usage["prompt_tokens"] == sum(len(text) // 4 for text in texts)
    assert results.cost is not None
    assert results.cost > 0


@pytest.mark.filterwarnings("ignore:(?s)Pydantic serializer warnings.*embedding")  # the OpenAI SDK's, of its own type
def test_base64_vectors_are_decoded(server: Server) -> None:
    """encoding_format="base64" gives floats all the same."""
    results = embed(server, ["a text"], encoding_format="base64")
    assert results.embeddings == [vector_for("a text")]
    assert server.requests[0].json["encoding_format"] == "base64"


def test_only_the_bad_text_of_a_chunk_fails(server: Server) -> None:
    """A chunk refused with 400 is halved until the bad text is alone."""

    def refuse(request: Request) -> Response | None:
        return Response(400) if any("bad" in text for text in request.json["input"]) else None

    server.handler = refuse
    texts = [f"text {i}" for i in range(20)]
    texts[13] = "a bad one"
    results = embed(server, texts)
    assert [i for i, row in enumerate(results) if "error" in row] == [13]
    assert results.embeddings[13] is None
    assert results[13]["error_details"]["status_code"] == 400
    assert results.embeddings[14] == vector_for("text 14")


def test_answers_are_joined_by_their_index(server: Server) -> None:
    """Vectors that come in another order go to their texts; a missing one is an error row, never zeros."""

    def shuffled(request: Request) -> Response:
        data = [{"object": "embedding", "index": i, "embedding": [float(i), 1.0]} for i in (2, 0)]
        return Response(body={"object": "list", "model": "m", "data": data, "usage": {"prompt_tokens": 6}})

    server.handler = shuffled
    results = embed(server, ["one", "two", "three"])
    assert results.embeddings == [[0.0, 1.0], None, [2.0, 1.0]]
    assert results[1]["error_details"]["type"] == "EmptyAnswer"


def test_bad_texts_are_their_own_errors(server: Server) -> None:
    """An empty text is an error row; the texts beside it have their vectors."""
    assert embed(server, ["good", "", "fine"]).embeddings == [vector_for("good"), None, vector_for("fine")]


@pytest.mark.parametrize("texts", ["a text", 3, [["a"]]])
def test_misuse_raises(server: Server, texts: Any) -> None:
    """One string, or conversations, are not a list of texts."""
    with pytest.raises(TypeError, match="list of strings"):
        embed(server, texts)
    assert not server.requests


@pytest.mark.parametrize("option", ["fallbacks", "warm_prompt_cache", "batch_job"])
def test_options_of_chats_are_misuse(server: Server, option: str) -> None:
    """An option that embeddings do not have raises; it neither is ignored nor reaches LiteLLM."""
    with pytest.raises(ValueError, match=f"{option}= is for chat completions"):
        embed(server, ["a"], **{option: ["x"]})
    assert not server.requests
