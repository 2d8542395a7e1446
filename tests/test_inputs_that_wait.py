"""Inputs that block, end badly or feed on results: rows come out as they finish, and what is done is kept."""

from __future__ import annotations

import queue
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

import llmbatch
from tests.server import Response
from tests.talk import answered, batch, chats, lines, place

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.server import Server

LONG = 60.0  # seconds; more than any test takes


@pytest.fixture
def released() -> Iterator[threading.Event]:
    """What a blocked input waits for, set when the test is over."""
    event = threading.Event()
    yield event
    event.set()


def failing(count: int) -> Iterator[Any]:
    yield from chats(count)
    msg = "disk gone"
    raise OSError(msg)


def test_an_input_may_wait_for_the_rows_of_what_it_gave_before(server: Server) -> None:
    """A crawler: each question comes out of the answer before it, and none is held back until the next is there."""
    answers: queue.Queue[int | None] = queue.Queue()
    answers.put(0)

    def questions() -> Iterator[Any]:
        while (number := answers.get(timeout=LONG)) is not None:
            yield chats(1, start=number)[0]

    rows = {}
    for index, row in llmbatch.as_completed(questions(), **place(server.api_base)):
        rows[index] = row
        answers.put(index + 1 if index < 5 else None)
    assert [answered(rows[index], index) for index in range(6)] == [True] * 6


def test_the_deadline_waits_for_no_input(server: Server, released: threading.Event, jump: Any) -> None:
    """A generator that blocks beyond the deadline ends the batch with the rows that were taken from it."""

    def blocked() -> Iterator[Any]:
        yield from chats(3)
        released.wait()
        yield from chats(3)

    done: list[int] = []
    jump(60, lambda: len(done) == 3)
    rows = batch(server.api_base, blocked(), deadline=60, on_result=lambda at, _: done.append(at))
    assert [answered(row, index) for index, row in enumerate(rows)] == [True] * 3
    assert not released.is_set()


def test_an_input_of_known_length_has_all_its_rows_at_the_deadline(server: Server, jump: Any) -> None:
    """What has a length is read to its end though it is no list; what has none may never end, and is left."""
    server.handler = lambda request: Response(200, delay=60)
    rows = batch(server.api_base, dict(enumerate(chats(30))).values(), max_workers=4, deadline=0.5)
    assert [row["error_details"]["type"] for row in rows] == ["DeadlineExceeded"] * 30
    server.reset()
    jump(60, lambda: len(server.requests) == 4)
    rows = batch(server.api_base, iter(chats(30)), max_workers=4, deadline=60)
    assert [row["error_details"]["type"] for row in rows] == ["DeadlineExceeded"] * 4


def test_an_input_that_raises_ends_the_batch_after_its_rows(server: Server, tmp_path: Path) -> None:
    """Each row that it gave is answered and kept: by the iterator, in the file and in `interrupted_results()`."""
    server.set(latency=0.02)
    found: dict[int, Any] = {}
    with pytest.raises(OSError, match="disk gone"):
        found.update(llmbatch.as_completed(failing(25), **place(server.api_base)))
    assert [answered(found[index], index) for index in range(25)] == [True] * 25
    path = tmp_path / "run.jsonl"
    with pytest.raises(OSError, match="disk gone") as caught:
        batch(server.api_base, failing(25), checkpoint=path)
    assert "interrupted_results()" in caught.value.__notes__[0]
    kept = llmbatch.interrupted_results()
    assert kept is not None
    assert [answered(row, index) for index, row in enumerate(kept)] == [True] * 25
    assert len(lines(path)) == 25
    texts = (f"text {number}" if number < 25 else 1 // 0 for number in range(26))
    with pytest.raises(ZeroDivisionError):
        llmbatch.create_embeddings_batch(texts, **place(server.api_base, model="openai/e"))
    kept = llmbatch.interrupted_results()
    assert kept is not None
    assert [bool(vector) for vector in kept.embeddings] == [True] * 25


def test_texts_beside_known_ones_outlive_an_input_that_raises(server: Server, tmp_path: Path) -> None:
    """Whose request would have been filled by later ones."""
    given: dict[str, Any] = {**place(server.api_base, model="openai/e"), "checkpoint": tmp_path / "run.jsonl"}
    llmbatch.create_embeddings_batch([f"text {number}" for number in range(0, 20, 2)], **given)
    texts = (f"text {number}" if number < 20 else 1 // 0 for number in range(21))
    with pytest.raises(ZeroDivisionError):
        llmbatch.create_embeddings_batch(texts, **given)
    kept = llmbatch.interrupted_results()
    assert kept is not None
    assert [bool(vector) for vector in kept.embeddings] == [True] * 20


@pytest.mark.processes
def test_texts_do_not_wait_for_others_to_fill_their_request(
    server: Server, released: threading.Event, jump: Any
) -> None:
    """Of an input that feeds on its rows, and at the deadline: each text that was taken has its row."""
    answers: queue.Queue[int] = queue.Queue()
    done: list[int] = []

    def on_result(at: int, _: Any) -> None:
        done.append(at)
        answers.put(at)

    def texts() -> Iterator[str]:
        for number in range(4):
            yield f"text {number}"
            answers.get(timeout=LONG)
        yield from ("text 4", "text 5")
        released.wait()

    given: dict[str, Any] = {**place(server.api_base, model="openai/e"), "progress": False}
    jump(60, lambda: len(done) == 6)
    rows = llmbatch.create_embeddings_batch(texts(), deadline=60, on_result=on_result, **given)
    assert [bool(vector) for vector in rows.embeddings] == [True] * 6
    assert len(server.requests) == 5, "and the last two had no pause between them"
    assert not released.is_set()


@pytest.mark.processes
def test_the_deadline_loses_no_text_that_was_taken(server: Server) -> None:
    """What had no time to be sent is an error row."""
    taken = []

    def texts() -> Iterator[str]:
        while True:
            taken.append(f"text {len(taken)}")
            yield taken[-1]
            time.sleep(0.01)

    server.set(latency=LONG)
    given: dict[str, Any] = {**place(server.api_base, model="openai/e"), "progress": False}
    rows = llmbatch.create_embeddings_batch(texts(), deadline=1, max_workers=100, **given)
    assert {row["error_details"]["type"] for row in rows} == {"DeadlineExceeded"}
    assert len(taken) - 1 <= len(rows) <= len(taken)


@pytest.mark.parametrize("error", [KeyError, SystemExit])
def test_an_on_result_that_raises_ends_the_batch_with_its_rows_kept(server: Server, error: type[BaseException]) -> None:
    """Its exception is the caller's, the row that it was called with is kept, and the process can go on."""

    def on_result(index: int, row: Any) -> None:
        if index == 2:
            raise error

    with pytest.raises(error):
        batch(server.api_base, chats(9), max_workers=1, on_result=on_result)
    kept = llmbatch.interrupted_results()
    assert kept is not None
    assert [answered(row, index) for index, row in enumerate(kept)] == [True] * 3 + [False] * 6
    assert len(server.requests) <= 4
    assert not batch(server.api_base, chats(3)).failed


def test_a_generator_of_something_else_is_misuse_before_anything_is_sent(server: Server) -> None:
    """It shows when the first item comes; nobody waits for that in the call that only makes the iterator."""
    for wrong in ((message for message in chats(1)[0]), (number for number in [[1.5], "text"])):
        with pytest.raises(TypeError, match="list of"):
            llmbatch.create_embeddings_batch(wrong, **place(server.api_base, model="openai/e"))
    with pytest.raises(TypeError, match=r"Pass a list: \[messages\]"):
        batch(server.api_base, (message for message in chats(1)[0]))
    never: queue.Queue[Any] = queue.Queue()
    llmbatch.as_completed(iter(never.get, None), **place(server.api_base)).close()
    assert not server.requests
