"""Rows and pieces as they come: complete, bounded, and ended by whoever leaves."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

import pytest

import llmbatch
from tests.replies import said
from tests.server import Response, answer_to
from tests.talk import answered, batch, chats, idle, place, question, streamed

if TYPE_CHECKING:
    from tests.server import Server


def test_as_completed_gives_every_row_once(server: Server) -> None:
    """Blocking and async, from a list and from a generator."""
    rows = dict(llmbatch.as_completed((chat for chat in chats(40)), **place(server.api_base)))
    assert [answered(rows[i], i) for i in range(40)] == [True] * 40

    async def run() -> dict[int, Any]:
        return {index: row async for index, row in llmbatch.as_completed(chats(40), **place(server.api_base))}

    assert asyncio.run(run()).keys() == rows.keys()


def test_rows_come_as_they_finish(server: Server) -> None:
    """A slow row holds no other one back."""
    slow = Response(503, until=lambda: server.stats.ok == 9)
    server.handler = lambda request: slow if request.text == question(0) else None
    order = [index for index, _ in llmbatch.as_completed(chats(10), max_workers=4, retries=0, **place(server.api_base))]
    assert order[-1] == 0
    assert sorted(order) == list(range(10))


def test_a_slow_consumer_slows_the_sending(server: Server) -> None:
    """No more than the workers' number of rows is ahead of the consumer, of however many."""
    ahead = []
    for done, _ in enumerate(llmbatch.as_completed(iter(chats(100_000)), max_workers=4, **place(server.api_base)), 1):
        time.sleep(0.02)
        ahead.append(len(server.requests) - done)
        if done == 40:
            break
    assert max(ahead) <= 4 + 1
    assert idle(server)
    assert len(server.requests) <= 40 + 4


def test_leaving_early_cancels_what_is_in_flight(server: Server) -> None:
    """Nothing is sent after the loop was left, and the server's connections are let go."""
    at_once = {question(0), question(200)}
    server.handler = lambda request: None if request.text in at_once else Response(200, delay=60)
    for _index, _row in llmbatch.as_completed(chats(100), max_workers=8, **place(server.api_base)):
        break
    assert idle(server)
    assert len(server.requests) <= 9

    async def run() -> None:
        async for _ in llmbatch.as_completed(chats(100, start=200), max_workers=8, **place(server.api_base)):
            break

    asyncio.run(run())
    assert idle(server)
    anew = {question(number) for number in range(200, 300)}
    assert len([request for request in server.requests if request.text in anew]) <= 9


def test_pieces_make_up_the_row(server: Server) -> None:
    """Deltas of each index in order, then its row with usage and cost."""
    pieces: dict[int, str] = {}
    rows: dict[int, Any] = {}
    for event in llmbatch.stream_chat_completions_batch(chats(12), max_workers=4, **place(server.api_base)):
        index = event["index"]
        if "row" in event:
            rows[index] = event["row"]
        else:
            assert index not in rows, "no piece comes after its row"
            pieces[index] = pieces.get(index, "") + event["delta"]
    assert sorted(rows) == list(range(12))
    for index, row in rows.items():
        assert answered(row, index)
        assert pieces[index] == answer_to(question(index))
        assert row["usage"]["total_tokens"] > 0
        assert row["cost"] > 0


@pytest.mark.usefixtures("quick_backoff")
def test_a_cut_stream_starts_again_under_a_new_attempt(server: Server) -> None:
    """The attempt's number tells the pieces that are void from those that count."""
    asked = dict.fromkeys(map(question, range(4)), 0)

    def cut(request: Any) -> Response | None:
        asked[request.text] += 1
        if asked[request.text] > 1:
            return None
        text = 'data: {"id":"c","object":"chat.completion.chunk","created":1,"model":"m","choices":[{"index":0,"delta":{"content":"void"},"finish_reason":null}]}\n\n'  # noqa: E501
        return Response(200, {"content-type": "text/event-stream"}, text, cut=len(text))

    server.handler = cut
    pieces: dict[tuple[int, int], str] = {}
    for event in llmbatch.stream_chat_completions_batch(chats(4), **place(server.api_base)):
        if "row" in event:
            assert answered(event["row"], event["index"])
            assert event["row"]["attempts"] == 2
        else:
            key = event["index"], event["attempt"]
            pieces[key] = pieces.get(key, "") + event["delta"]
    assert all(pieces[index, 2] == answer_to(question(index)) for index in range(4))


def test_a_streams_rows_are_those_of_the_list_form(server: Server) -> None:
    """Whole answers and their usage, by either way."""
    rows = streamed(server.api_base, chats(10))
    assert [answered(row, i) for i, row in enumerate(rows)] == [True] * 10
    assert all(request.json["stream"] for request in server.requests)
    plain = batch(server.api_base, chats(10))
    assert rows.texts == plain.texts
    assert rows.usage["total_tokens"] == plain.usage["total_tokens"]


def test_the_list_form_asks_for_no_stream(server: Server) -> None:
    """stream=True there gives whole rows after one request each, also where the server cannot stream."""
    server.handler = lambda request: said("whole")
    rows = batch(server.api_base, chats(3), stream=True)
    assert rows.texts == ["whole"] * 3
    assert [request.json.get("stream") for request in server.requests] == [None] * 3


def test_several_choices_come_apart(server: Server) -> None:
    """n=2 with a stream gives two whole choices, not two mixed into one."""
    (row,) = streamed(server.api_base, chats(1), n=2)
    assert [choice["message"]["content"] for choice in row["choices"]] == [answer_to(question(0))] * 2
    events = list(llmbatch.stream_chat_completions_batch(chats(1), n=2, **place(server.api_base)))
    assert {event.get("choice", 0) for event in events if "delta" in event} == {0, 1}


def test_leaving_a_stream_of_pieces_cancels(server: Server) -> None:
    """After the first piece of the first row nothing more is sent."""
    for _event in llmbatch.stream_chat_completions_batch(iter(chats(10_000)), max_workers=4, **place(server.api_base)):
        break
    assert idle(server)
    sent = len(server.requests)
    batch(server.api_base, chats(1))
    assert len(server.requests) == sent + 1


def test_a_stream_that_is_never_iterated_sends_nothing(server: Server) -> None:
    """Sending begins with the iteration."""
    llmbatch.as_completed(chats(10), **place(server.api_base))
    batch(server.api_base, [])
    assert not server.requests
