"""Embeddings: many texts in a request, a row for each text."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
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


def vectors_reply(texts: list[str], *, indices: list[int | None]) -> Response:
    items = [
        {"object": "embedding", "embedding": [float(len(text)), 1.0], **({} if index is None else {"index": index})}
        for text, index in zip(texts, indices, strict=True)
    ]
    return Response(body={"object": "list", "model": "m", "data": items, "usage": {"prompt_tokens": 6}})


def test_chunk_rejected_for_size_with_500_is_split(server: Server) -> None:
    """llama.cpp answers 500 for a text longer than its batch: only that text fails, after one request for it."""
    words = "input (992 tokens) is too large to process. increase the physical batch size (current batch size: 512)"

    def reject(request: Request) -> Response | None:
        if any("long" in text for text in request.json["input"]):
            return Response(500, body={"error": {"code": 500, "message": words, "type": "server_error"}})
        return None

    server.handler = reject
    texts = [f"text {i}" for i in range(20)]
    texts[3], texts[11] = "a long one", "another long one"
    results = embed(server, texts, model="openai/nomic")
    assert [row["error_details"]["index"] for row in results.failed] == [3, 11]
    assert "too large to process" in results[3]["error"]
    assert {row["attempts"] for row in results.failed} == {1}


UNCLEAR: dict[str, list[int | None]] = {
    "no index": [None] * 3,
    "always 0": [0] * 3,
    "from 1 on": [1, 2, 3],
    "one without": [0, 1, None],
}


@pytest.mark.parametrize("indices", UNCLEAR.values(), ids=UNCLEAR)
def test_vectors_of_unclear_index_are_asked_for_one_by_one(server: Server, indices: list[int | None]) -> None:
    """Nobody guesses whose a vector is: such an answer is rejected, and its cost is part of the rows'."""

    def reply(request: Request) -> Response:
        texts = request.json["input"]
        return vectors_reply(texts, indices=indices if len(texts) == 3 else [indices[0]])

    server.handler = reply
    results = embed(server, ["a", "bb", "ccc"], input_cost_per_token=1.0)
    assert [vector and vector[0] for vector in results.embeddings] == [1.0, 2.0, 3.0]
    assert [len(request.json["input"]) for request in server.requests] == [3, 1, 1, 1]
    assert results.cost == pytest.approx(4 * 6)
    assert {row["attempts"] for row in results} == {2}


@pytest.mark.parametrize("route", ["openai", "hosted_vllm", "infinity"])
def test_dimensions_reach_server_of_any_model(server: Server, route: str) -> None:
    """LiteLLM's list of models does not decide it for a self-hosted one."""
    (vector,) = embed(server, ["a"], model=f"{route}/bert", dimensions=16).embeddings
    assert vector is not None
    assert len(vector) == 16
    assert server.requests[0].json["dimensions"] == 16


def test_vector_of_wrong_dimensions_fails(server: Server) -> None:
    """A server that ignores `dimensions` is no success."""
    server.handler = lambda request: vectors_reply(request.json["input"], indices=[0])
    (row,) = embed(server, ["a"], model="openai/bert", dimensions=16)
    assert row["error_details"]["type"] == "WrongDimensions"
    assert "2 numbers" in row["error"]


def test_to_numpy_gives_rows_by_dimensions(server: Server) -> None:
    """A failed row is NaN or an error, as the caller chooses; what is no table of vectors raises."""
    results = embed(server, ["a", "", "b"])
    array = results.to_numpy(on_failed="nan")
    assert array.shape == (3, 8)
    assert array[0].tolist() == pytest.approx(vector_for("a"))
    assert [bool(np.isnan(row).all()) for row in array] == [False, True, False]
    with pytest.raises(llmbatch.BatchFailedError):
        results.to_numpy()
    assert results[:1].to_numpy().shape == (1, 8)
    assert llmbatch.BatchResults().to_numpy().shape == (0, 0)
    with pytest.raises(ValueError, match="on_failed must be 'raise' or 'nan', not 'zero'"):
        results.to_numpy(on_failed="zero")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="no row has a vector"):
        results[1:2].to_numpy(on_failed="nan")
    longer = embed(server, ["c"], dimensions=4)
    with pytest.raises(ValueError, match="differ in length: row 0 has 8 and row 1 has 4"):
        llmbatch.BatchResults([*results[:1], *longer]).to_numpy()
