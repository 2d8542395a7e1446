"""What a type checker must make of the public API. mypy reads this file; nobody runs it."""

from typing import Any, assert_type

from pydantic import BaseModel

import llmbatch
from llmbatch import BatchResults, Row


class Model(BaseModel):
    name: str


CHATS: list[list[dict[str, Any]]] = [[{"role": "user", "content": "Hi"}]]

assert_type(llmbatch.create_chat_completions_batch(CHATS, "gpt-4o-mini", seed=1), BatchResults)
assert_type(
    llmbatch.create_chat_completions_batch(CHATS, max_workers="auto", response_format=Model), BatchResults[Model]
)
assert_type(llmbatch.create_chat_completions_batch(CHATS, response_format=Model).parsed, list[Model | None])
assert_type(
    llmbatch.create_chat_completions_batch(CHATS, response_format={"type": "json_object"}).parsed, list[Any | None]
)
assert_type(llmbatch.create_chat_completions_batch(CHATS).raise_for_errors(), BatchResults)
assert_type(llmbatch.create_chat_completion(CHATS[0]), Row)
assert_type(llmbatch.create_embeddings_batch(["a text"]), BatchResults)
assert_type(llmbatch.create_chat_completions_batch_copilot(CHATS), BatchResults)
assert_type(llmbatch.create_chat_completions_batch(CHATS).texts, list[str | None])
assert_type(llmbatch.create_chat_completions_batch(CHATS).cost, float | None)
assert_type(llmbatch.interrupted_results(), BatchResults | None)

for index, row in llmbatch.as_completed(CHATS):
    assert_type(index, int)
    assert_type(row, Row)
    assert_type(row["cost"], float | None)
    assert_type(row["custom_id"] + row["model"], str)
    assert_type(row.get("error"), str | None)


async def awaited() -> None:
    assert_type(await llmbatch.acreate_chat_completions_batch(CHATS), BatchResults)
    whole = await llmbatch.acreate_chat_completions_batch(CHATS, response_format=Model)
    assert_type(whole.parsed, list[Model | None])
    async for number, finished in llmbatch.as_completed(CHATS):
        assert_type(number, int)
        assert_type(finished, Row)
    async for event in llmbatch.stream_chat_completions_batch(CHATS):
        assert_type(event["index"], int)


llmbatch.create_chat_completions_batch(CHATS, max_workers="many")  # type: ignore[arg-type]
llmbatch.create_chat_completions_batch(CHATS, retries="6")  # type: ignore[arg-type]
llmbatch.create_chat_completions_batch(CHATS, temprature=1)  # type: ignore[call-arg]
llmbatch.create_embeddings_batch(["a"], dimension=8)  # type: ignore[call-arg]
llmbatch.create_embeddings_batch(3)  # type: ignore[arg-type]
