"""What a type checker must make of the public API. mypy reads this file; nobody runs it."""

from typing import Any, assert_type

from pydantic import BaseModel

import llmbatch
from llmbatch import BatchResults, Row


class Model(BaseModel):
    name: str


CHATS: list[list[dict[str, Any]]] = [[{"role": "user", "content": "Hi"}]]

assert_type(llmbatch.create_chat_completions_batch(CHATS, "gpt-4o-mini", seed=1), BatchResults)
assert_type(llmbatch.create_chat_completions_batch(CHATS, max_workers="auto", response_format=Model), BatchResults)
assert_type(llmbatch.create_chat_completion(CHATS[0]), Row)
assert_type(llmbatch.create_embeddings_batch(["a text"]), BatchResults)
assert_type(llmbatch.create_chat_completions_batch_copilot(CHATS), BatchResults)
assert_type(llmbatch.create_chat_completions_batch(CHATS).texts, list[str | None])
assert_type(llmbatch.create_chat_completions_batch(CHATS).cost, float | None)
assert_type(llmbatch.interrupted_results(), BatchResults | None)

for index, row in llmbatch.as_completed(CHATS):
    assert_type(index, int)
    assert_type(row, Row)


async def awaited() -> None:
    assert_type(await llmbatch.acreate_chat_completions_batch(CHATS), BatchResults)
    async for number, finished in llmbatch.as_completed(CHATS):
        assert_type(number, int)
        assert_type(finished, Row)
    async for event in llmbatch.stream_chat_completions_batch(CHATS):
        assert_type(event["index"], int)


llmbatch.create_chat_completions_batch(CHATS, max_workers="many")  # type: ignore[arg-type]
llmbatch.create_chat_completions_batch(CHATS, retries="6")  # type: ignore[arg-type]
llmbatch.create_embeddings_batch(3)  # type: ignore[arg-type]
