"""A web server that answers lists of questions. Run it with `uvicorn fastapi_server:app`."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI

from llmbatch import acreate_chat_completions_batch, awarm_up


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncIterator[None]:
    """Load LiteLLM before the first request comes."""
    await awarm_up("gpt-4o-mini")
    yield


app = FastAPI(lifespan=lifespan)


@app.post("/answers")
async def answers(questions: list[str]) -> list[dict[str, str | None]]:
    """Answer all questions within 30 seconds. All calls of this process share the rate limits that llmbatch learns."""
    results = await acreate_chat_completions_batch(questions, "gpt-4o-mini", deadline=30)
    return [{"answer": text, "error": row.get("error")} for row, text in zip(results, results.texts, strict=True)]


if __name__ == "__main__":  # one request, without a network
    from fastapi.testclient import TestClient

    with TestClient(app) as client:
        print(client.post("/answers", json=["What is the capital of France?"]).json())
