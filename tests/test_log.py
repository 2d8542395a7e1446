"""The log tells the story of a batch: which batch and model, what went wrong, how often, and why it took so long."""

from __future__ import annotations

import json
import re
import threading
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from loguru import logger

import llmbatch
from tests.replies import said
from tests.server import Request, Response, Server

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.warm import Warm


@pytest.fixture
def options(place: dict[str, Any]) -> dict[str, Any]:
    return {**place, "model": "openai/test-model", "progress": False}


@pytest.fixture
def records() -> Iterator[list[dict[str, Any]]]:
    """The log from INFO on, as JSON."""
    lines: list[dict[str, Any]] = []
    handler = logger.add(lambda line: lines.append(json.loads(line)["record"]), level="INFO", serialize=True)
    logger.enable("llmbatch")
    yield lines
    logger.disable("llmbatch")
    logger.remove(handler)


def story(log: list[str], level: str = "INFO") -> list[str]:
    return [line for line in log if line.startswith(level)]


def test_every_line_has_batch_provider_and_model(records: list[dict[str, Any]], options: dict[str, Any]) -> None:
    """Two batches at the same time can be told apart, and the results know their id."""
    found: dict[str, llmbatch.BatchResults] = {}

    def work(text: str) -> None:
        found[text] = llmbatch.create_chat_completions_batch([f"{text} {i}" for i in range(3)], **options)

    threads = [threading.Thread(target=work, args=(text,)) for text in ("a", "b")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {record["extra"]["batch"] for record in records} == {found["a"].batch_id, found["b"].batch_id}
    assert len(found["a"].batch_id) == 8
    for record in records:
        assert (record["extra"]["provider"], record["extra"]["model"]) == ("openai", "test-model")
        assert record["message"].startswith(f"[{record['extra']['batch']} openai/test-model] ")


def test_lines_of_a_stream_have_its_batch_too(records: list[dict[str, Any]], options: dict[str, Any]) -> None:
    """Each step of it runs in a context of its own; after it the caller's context is as before."""
    for _ in llmbatch.as_completed(["a", "b", "c"], **options):
        logger.info("the caller's own")
    own = [record for record in records if record["message"] == "the caller's own"]
    assert len({record["extra"].get("batch") for record in records}) == 2
    assert [record["extra"] for record in own] == [{}, {}, {}]


def test_spell_of_429s_is_told_with_row_wait_and_count(log: list[str], server: Server, options: dict[str, Any]) -> None:
    """One line names the first row and its Retry-After, one the count at the end; DEBUG has each attempt."""
    left = {"row 3": 2, "row 4": 1}

    def answer(request: Request) -> Response | None:
        if left.get(request.text):
            left[request.text] -= 1
            return Response(429, {"retry-after": "0.05"}, {"error": {"message": "slow down", "code": "rate_limited"}})
        return None

    server.handler = answer
    ids = [f"id-{i}" for i in range(5)]
    results = llmbatch.create_chat_completions_batch(
        [f"row {i}" for i in range(5)], custom_ids=ids, max_workers=1, **options
    )
    first, *_ = [line for line in story(log) if "429" in line][:2]
    assert "429 (rate-limited) for row 3 (id-3): Retry-After 0.05 s" in first
    assert "slow down" in first
    assert "'index': 3" in first
    assert any(re.search(r"429s ended: 3 requests got 429 in [\d.]+ s", line) for line in story(log))
    attempts = [line for line in story(log, "DEBUG") if "Row 3 (id-3): attempt" in line]
    assert all(f"attempt {n} failed with RateLimitError" in line for n, line in enumerate(attempts[:2], 1))
    assert len(attempts) == 2
    assert results.stats["rate_limited"] == 3
    assert results.stats["retries"] == {"RateLimitError": 3}
    assert results.stats["attempts"] == 8


@pytest.mark.usefixtures("quick_backoff")
def test_retries_are_one_line_by_cause(log: list[str], server: Server, options: dict[str, Any]) -> None:
    """However many there are; the first is named with row, id and message."""
    failed: set[str] = set()

    def answer(request: Request) -> Response | None:
        if request.text in failed:
            return None
        failed.add(request.text)
        return Response(500 if request.text.startswith("a") else 504)

    server.handler = answer
    results = llmbatch.create_chat_completions_batch(["a1", "a2", "a3", "b"], max_workers=2, **options)
    (line,) = [line for line in story(log) if "Retries in" in line]
    assert "3 InternalServerError" in line
    assert "1 Timeout" in line
    assert "first: row " in line
    assert sum(results.stats["retries"].values()) == 4
    assert "8 requests for 4 rows; retried: 3 InternalServerError, 1 Timeout" in results.summary()


def test_rows_that_were_not_sent_are_one_line(log: list[str], server: Server, options: dict[str, Any]) -> None:
    """With their count and the reason: a bad key has thousands of them."""
    server.handler = lambda _: Response(401, {}, {"error": {"message": "Incorrect API key provided"}})
    results = llmbatch.create_chat_completions_batch([f"q{i}" for i in range(200)], **options)
    unsent = sum(row["error_details"]["type"] == "NotSent" for row in results)
    about = [line for line in log if "NotSent" in line or "not sent" in line]
    assert unsent > 100
    assert len([line for line in about if f"{unsent} NotSent" in line]) == 1
    assert len(log) < 120
    assert results.stats["ended_early"].startswith(f"Ended early: {unsent} rows were not sent")


def test_budget_is_told_at_half_at_four_fifths_and_when_reached(
    log: list[str], server: Server, options: dict[str, Any]
) -> None:
    """With what is spent; the cap itself is a warning."""
    server.handler = lambda _: said("fine")
    results = llmbatch.create_chat_completions_batch(
        [f"q{i}" for i in range(40)], max_workers=1, max_tokens=10, max_cost=0.02,
        input_cost_per_token=0.00005, output_cost_per_token=0.00005, **options,
    )  # fmt: skip
    told = [line.split("] ", 1)[1] for line in story(log) if "% of max_cost" in line]
    assert len(told) == 2
    assert told[0].startswith("5")
    assert told[1].startswith("8")
    assert story(log, "WARNING")[0].split("] ", 1)[1].startswith("max_cost=$0.02 is reached: $0.0")
    assert results.failed


def test_stated_limits_are_told_when_found_and_when_changed(
    log: list[str], server: Server, options: dict[str, Any]
) -> None:
    """Not with each answer."""
    numbers = iter(range(100))

    def answer(_: Request) -> Response:
        limit = "600" if next(numbers) < 4 else "60000"
        headers = {"x-ratelimit-limit-requests": limit, "x-ratelimit-remaining-requests": limit}
        return replace(said("fine"), headers=headers)

    server.handler = answer
    llmbatch.create_chat_completions_batch([f"q{i}" for i in range(8)], max_workers=1, **options)
    told = [line for line in story(log) if "The provider states a limit of" in line]
    assert ["600 requests/min" in told[0], "60,000 requests/min" in told[1], len(told)] == [True, True, 2]


def test_progress_names_the_oldest_row(
    log: list[str], server: Server, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A batch that stands still says which row it waits for, and since when."""
    monkeypatch.setattr("llmbatch._batch.batch_story.PROGRESS_SECONDS", 0.02)
    gate = threading.Event()

    def answer(request: Request) -> None:
        if request.text == "slow":
            gate.wait(20)

    server.handler = answer
    logger.add(lambda line: gate.set() if "Progress: 1 of 2 rows done" in line else None, format="{message}")
    given = {**options, "custom_ids": ["a", "b"], "max_workers": 1}  # the gate stops the whole server
    results = llmbatch.create_chat_completions_batch(["quick", "slow"], **given)
    assert not results.failed
    line = next(line for line in log if "Progress: 1 of 2 rows done" in line)
    assert "oldest: row 1 (b) for " in line


def test_summary_says_what_limited_the_run(server: Server, options: dict[str, Any]) -> None:
    """A configured limit, with the seconds that requests waited for it."""
    del server
    results = llmbatch.create_chat_completions_batch(["a"] * 4, requests_per_minute=240, **options)
    assert results.stats["limited_by"] == "the configured rate limit (requests_per_minute=240)"
    assert results.stats["seconds"]["waiting_for_limits"] > results.stats["seconds"]["answering"]
    assert json.loads(json.dumps(results.stats))["batch_id"] == results.batch_id
    assert results[1:].stats["rows"] == 3


@pytest.mark.parametrize("level", ["LOUD", None])
def test_unknown_level_is_rejected(level: Any) -> None:
    """Before anything changes."""
    with pytest.raises(ValueError, match="level must be DEBUG, INFO, WARNING or ERROR"):
        llmbatch.enable_logging(level)


_SCRIPT = """
import json, logging, sys
import llmbatch
{before}
llmbatch.enable_logging({arguments})
llmbatch.create_chat_completions_batch(["a"], "openai/test-model", api_base={place!r}, api_key="k")
"""


@pytest.mark.processes
@pytest.mark.parametrize("before", ["", "logging.basicConfig(format='%(message)s', stream=sys.stderr)"])
def test_json_log_is_one_object_per_line(warm: Warm, server: Server, before: str) -> None:
    """On stderr, and through `logging`; `record.extra` has stable names."""
    code = _SCRIPT.format(before=before, arguments="json=True", place=server.api_base)
    with warm.script(code) as process:
        lines = [json.loads(line)["record"] for line in process.communicate()[1].splitlines()]
    assert {tuple(sorted(line["extra"])) for line in lines} == {("batch", "model", "provider")}
    assert len(lines) >= 2


@pytest.mark.processes
def test_logging_records_have_the_fields_as_attributes(warm: Warm, server: Server) -> None:
    """So that a formatter of the application's own can use them; DEBUG comes only when it is wanted."""
    before = (
        "logging.basicConfig(format='%(levelname)s %(model)s %(index)s', stream=sys.stderr); "
        "logging.getLogger().handlers[0].addFilter(lambda record: hasattr(record, 'index'))"
    )
    for level, expected in (("'DEBUG'", "DEBUG test-model 0\n"), ("'INFO'", "")):
        code = _SCRIPT.format(before=before, arguments=level, place=server.api_base)
        with warm.script(code) as process:
            assert process.communicate()[1] == expected


def test_rows_say_when_their_turn_came(server: Server, options: dict[str, Any], tmp_path: Path) -> None:
    """In UTC, also failed rows; a checkpoint keeps it, and copies of a row have it too."""
    server.handler = lambda request: Response(400) if request.text == "bad" else None
    before = datetime.now(UTC)
    options["checkpoint"] = tmp_path / "run.jsonl"
    first = llmbatch.create_chat_completions_batch(["a", "bad", "a"], dedupe=True, **options)
    times = [datetime.fromisoformat(row["started_at"] or "") for row in first]
    assert all(before - timedelta(seconds=1) <= time <= datetime.now(UTC) for time in times)
    assert all((row["started_at"] or "").endswith("Z") for row in first)
    again = llmbatch.create_chat_completions_batch(["a", "bad", "a"], dedupe=True, **options)
    assert [row["started_at"] for row in again[::2]] == [row["started_at"] for row in first[::2]]
    assert again[1]["started_at"] > first[1]["started_at"]  # type: ignore[operator]
    assert first.stats["started_at"] <= (first[0]["started_at"] or "")
