"""A batch by way of a job, of the flex tier, or of what is cheapest in time: every row once, in order, at its price."""

from __future__ import annotations

import asyncio
import random
import re
import signal
import threading
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

import llmbatch
from tests.batch_server import MODEL, BatchProvider, asked
from tests.replies import answer_to, reply
from tests.talk import lines
from tests.wire import Request, Response

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.server import Server
    from tests.warm import Warm

ROWS, WARM = 12, 30
SOON = 120.0  # seconds: a tenth of it for the job, most of it for the rest, however slow this machine is
HALF = 0.5  # of the live price


@pytest.fixture(autouse=True)
def early_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """A job is ended long before the deadline."""
    monkeypatch.setattr("llmbatch._jobs.cheapest_run.LEAST_LIVE_SHARE", 0.8)
    monkeypatch.setattr("llmbatch._jobs.cheapest_run.CANCEL_SHARE", 0.1)
    monkeypatch.setattr("llmbatch._jobs.job_run._LEAST_POLLS", 400)


@pytest.fixture
def job_time_passes(jump: Any, batches: BatchProvider, server: Server) -> None:
    """The time for the job passes as soon as it has been looked at, the time for its end as soon as it is cancelled."""
    jump(SOON / 10, lambda: any("/batches/" in request.path for request in server.requests))
    jump(SOON / 10, lambda: any(job["status"] == "cancelling" for job in batches.jobs.values()))


def cheapest(place: dict[str, Any], rows: Any = None, **options: Any) -> llmbatch.BatchResults:
    """A batch in the cheapest lane, once an answer has been seen: the provider's live answers take no time."""
    given: dict[str, Any] = {"lane": "cheapest", "progress": False, "max_tokens": 10, "retries": 2, **place, **options}
    llmbatch.create_chat_completions_batch(asked(WARM), MODEL, progress=False, **place)
    return llmbatch.create_chat_completions_batch(asked(ROWS) if rows is None else rows, MODEL, **given)


def whole(results: llmbatch.BatchResults, count: int = ROWS) -> bool:
    """Whether every row is there once, in order, answered."""
    return results.texts == [answer_to(f"Question {i}") for i in range(count)]


def billed(server: Server, batches: BatchProvider, price: float) -> float:
    """What the provider has counted, at `price` USD a live answer."""
    live = sum(request.path.endswith("/chat/completions") for request in server.requests) - WARM
    return price * (live + HALF * len(batches.answered))


@pytest.fixture
def price(batches: BatchProvider, place: dict[str, Any]) -> float:
    """USD of one live answer; all have as many tokens."""
    assert batches
    row = llmbatch.create_chat_completion(asked(1)[0], MODEL, **place)
    assert row["cost"]
    return row["cost"]


def early(batches: BatchProvider) -> None:
    batches.polls = 3


def never(batches: BatchProvider) -> None:
    batches.polls = 10**6


def in_part(batches: BatchProvider) -> None:
    batches.polls = 10**6
    batches.lines = dict.fromkeys(range(0, ROWS, 2), "missing")


def expired(batches: BatchProvider) -> None:
    batches.polls, batches.end = 2, "expired"
    batches.lines = dict.fromkeys(range(5), "expired")


def refused(batches: BatchProvider) -> None:
    batches.end = lambda _: {
        "status": "failed",
        "errors": {"data": [{"code": "token_limit_exceeded", "message": "Enqueued token limit reached", "line": None}]},
    }


def odd(batches: BatchProvider) -> None:
    batches.polls = 2
    batches.lines = {0: "twice", 1: "missing", 2: "empty", 3: "garbled"}


def down(batches: BatchProvider) -> None:
    batches.fault("POST", "/v1/batches", Response(403, body={"error": {"message": "no batches for you"}}))


@pytest.mark.processes
@pytest.mark.parametrize(
    ("fate", "by_job"),
    [(early, ROWS), (never, ROWS), (in_part, ROWS // 2), (expired, ROWS - 5), (refused, 0), (odd, ROWS - 3), (down, 0)],
)
def test_cheapest_answers_every_row_once_by_the_deadline(  # noqa: PLR0917 - fixtures
    server: Server, batches: BatchProvider, place: dict[str, Any], price: float,
    fate: Callable[[BatchProvider], None], by_job: int, jump: Any,
) -> None:  # fmt: skip
    """Whatever becomes of the job; the bill is the provider's own count, and each row says its lane."""
    fate(batches)
    server.requests.clear()
    if fate in {never, in_part}:
        jump(SOON / 10, lambda: any("/batches/" in request.path for request in server.requests))
    results = cheapest(place, deadline=SOON)
    assert whole(results)
    assert [row["lane"] for row in results].count("job") == by_job
    lost = price * HALF * sum(fate == "garbled" for fate in batches.lines.values())  # paid, though it cannot be read
    assert results.cost == pytest.approx(billed(server, batches, price) - lost)
    saved = sum(row.get("saved", 0.0) for row in results)
    assert saved == pytest.approx(by_job * price * HALF)
    assert (f"{by_job} job rows saved ${saved:.6f} against live prices" in results.summary()) == bool(by_job)
    assert results.elapsed < SOON


@pytest.mark.processes
@pytest.mark.usefixtures("job_time_passes")
def test_cheapest_late_answer_is_counted_as_paid_twice(
    server: Server, batches: BatchProvider, place: dict[str, Any], price: float, tmp_path: Path
) -> None:
    """The job that was cancelled ends only when its rows are answered live: both are charged for, which rows say."""
    never(batches)
    batches.closing = 10**6
    served, asked_live = server.handler, 0

    def handler(request: Request) -> Response | None:
        nonlocal asked_live
        if request.path.endswith("/chat/completions") and batches.jobs:
            asked_live += 1
            batches.closing = 10**6 if asked_live < ROWS else 0
            return replace(reply(request), delay=0.5)
        assert served is not None
        return served(request)

    server.handler = handler
    server.requests.clear()
    results = cheapest(place, deadline=SOON, max_workers=ROWS, checkpoint=tmp_path / "run.jsonl")
    assert whole(results)
    assert {row["lane"] for row in results} == {"live"}
    assert [row["paid_twice"] for row in results] == [pytest.approx(price * HALF)] * ROWS
    assert results.cost == pytest.approx(billed(server, batches, price)) == pytest.approx(1.5 * ROWS * price)
    kept = cheapest(place, deadline=SOON, checkpoint=tmp_path / "run.jsonl")
    assert (len(kept.resumed), kept.cost) == (ROWS, pytest.approx(results.cost))
    assert not (tmp_path / "run.jsonl.job").exists()


@pytest.mark.processes
@pytest.mark.usefixtures("job_time_passes")
def test_cheapest_job_that_never_ends_delays_nothing(
    batches: BatchProvider, place: dict[str, Any], tmp_path: Path
) -> None:
    """Its rows are answered live in time; that it may still charge for them is said."""
    never(batches)
    batches.closing = 10**6
    results = cheapest(place, deadline=SOON, checkpoint=tmp_path / "run.jsonl")
    assert whole(results)
    assert results.elapsed < SOON
    assert [row["paid_twice"] for row in results] == [None] * ROWS
    assert (tmp_path / "run.jsonl.job").exists()


def test_lane_rows_come_as_input_files_end(server: Server, batches: BatchProvider, place: dict[str, Any]) -> None:
    """Of two models' files one is answered long before the other."""
    served, places = server.handler, list[int]()

    def handler(request: Request) -> Response | None:
        batches.polls = 0 if places or request.path.endswith("batch_1") else 10**6
        assert served is not None
        return served(request)

    server.handler = handler
    requests = [{"prompt": f"Question {i}", "model": model} for model in (MODEL, "openai/gpt-4o") for i in range(3)]
    given: dict[str, Any] = {"lane": "job", "deadline": 60, "progress": False, **place}
    for index, row in llmbatch.as_completed(requests, MODEL, **given):
        places.append(index)
        assert (row["lane"], row["choices"][0]["message"]["content"]) == ("job", answer_to(f"Question {index % 3}"))
        assert batches.jobs["batch_2"]["status"] == "in_progress" or len(places) > 3
    assert sorted(places) == list(range(6))
    assert len(batches.jobs) == 2


@pytest.mark.processes
def test_cheapest_max_cost_covers_job_and_live_rows(
    server: Server, batches: BatchProvider, place: dict[str, Any], price: float, jump: Any
) -> None:
    """The job's worst case is held while it runs; what is left after it goes to live rows, and no more."""
    in_part(batches)
    with pytest.raises(ValueError, match="the job may cost") as refused:
        cheapest(place, max_tokens=2000, max_cost=price / 10)
    assert not batches.jobs
    server.requests.clear()
    jump(SOON / 10, lambda: any("/batches/" in request.path for request in server.requests))
    cap = 1.05 * float(re.findall(r"\$([\d.]+)", str(refused.value))[0])
    results = cheapest(place, deadline=SOON, max_tokens=2000, max_cost=cap)
    assert 0 < billed(server, batches, price) <= cap
    assert billed(server, batches, price) == pytest.approx(results.cost)
    assert {row["error_details"]["type"] for row in results.failed} <= {"BudgetExceeded"}
    assert [row["lane"] for row in results].count("job") == ROWS // 2


def test_cheapest_provider_without_batch_support_is_sent_live(
    server: Server, place: dict[str, Any], log: list[str]
) -> None:
    """Said once; lane "job" is refused."""
    given: dict[str, Any] = {"progress": False, **place, "model": "together_ai/some-model"}
    results = llmbatch.create_chat_completions_batch(asked(3), lane="cheapest", **given)
    assert whole(results, 3)
    assert sum("sending all rows live" in line for line in log) == 1
    with pytest.raises(NotImplementedError, match="together_ai"):
        llmbatch.create_chat_completions_batch(asked(3), lane="job", **given)


def test_cheapest_invalid_job_answers_are_reasked_live(
    batches: BatchProvider, place: dict[str, Any], server: Server
) -> None:
    """In the same conversation, with the job's answer in it; a row has the price of both."""
    assert batches

    def validate(row: Any) -> str | None:
        return None if "again" in row["choices"][0]["message"]["content"] else "Say it again."

    results = cheapest(place, reask=1, validate=validate)
    assert [row["asks"] for row in results] == [2] * ROWS
    asked_live = [request.json for request in server.requests if request.path.endswith("/chat/completions")]
    said = [body["messages"] for body in asked_live if len(body["messages"]) == 3]
    assert sorted(messages[1]["content"] for messages in said) == sorted(
        answer_to(f"Question {i}") for i in range(ROWS)
    )
    assert all(row["saved"] < row["cost"] for row in results)


@pytest.mark.parametrize("lane", ["job", "cheapest"])
def test_lane_dedupe_submits_duplicates_once(batches: BatchProvider, place: dict[str, Any], lane: str) -> None:
    """With dedupe the copies cost nothing, wherever they stand."""
    rows = [*asked(4), *asked(4)]
    results = cheapest(place, rows, lane=lane, dedupe=True)
    assert results.texts == [answer_to(f"Question {i % 4}") for i in range(8)]
    assert [row.get("same_as") for row in results] == [None] * 4 + [0, 1, 2, 3]
    assert len(batches.answered) == 4
    assert [bool(row["cost"]) for row in results] == [True] * 4 + [False] * 4


def test_lane_rows_of_the_checkpoint_are_in_no_job(
    batches: BatchProvider, place: dict[str, Any], tmp_path: Path
) -> None:
    """A live run's journal serves every lane: the job is asked for the rest."""
    given: dict[str, Any] = {"checkpoint": tmp_path / "run.jsonl", "max_tokens": 10, "progress": False, **place}
    llmbatch.create_chat_completions_batch(asked(3), MODEL, **given)
    results = llmbatch.create_chat_completions_batch(asked(5), MODEL, lane="cheapest", **given)
    assert whole(results, 5)
    assert [row["lane"] for row in results] == ["live"] * 3 + ["job"] * 2
    assert len(batches.answered) == 2


@pytest.mark.processes
@pytest.mark.parametrize("lane", ["job", "cheapest"])
def test_lane_blocking_input_is_read_until_the_deadline(
    batches: BatchProvider, place: dict[str, Any], lane: str
) -> None:
    """What it has given by then is answered; of the cheapest lane, in time."""
    released = threading.Event()

    def blocked() -> Iterator[Any]:
        yield from asked(3)
        released.wait(10 * SOON)

    batches.polls = 0
    results = cheapest(place, blocked(), lane=lane, deadline=8)
    released.set()
    assert whole(results, 3)
    assert results.elapsed < SOON


def test_live_rerun_beside_running_job_raises(batches: BatchProvider, place: dict[str, Any], tmp_path: Path) -> None:
    """Who goes on live would pay for its rows twice: that raises, and says what to do."""
    never(batches)
    given: dict[str, Any] = {"checkpoint": tmp_path / "run.jsonl", "progress": False, **place}

    async def interrupted() -> None:
        task = asyncio.ensure_future(llmbatch.acreate_chat_completions_batch(asked(3), MODEL, lane="cheapest", **given))
        while not batches.jobs:  # noqa: ASYNC110 - the server is another thread
            await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(interrupted())
    with pytest.raises(ValueError, match="may still run and be charged"):
        llmbatch.create_chat_completions_batch(asked(3), MODEL, **given)
    batches.polls = 0
    results = llmbatch.create_chat_completions_batch(asked(3), MODEL, lane="job", **given)
    assert whole(results, 3)
    assert len(batches.jobs) == 1
    assert whole(llmbatch.create_chat_completions_batch(asked(3), MODEL, **given), 3)


@pytest.mark.parametrize(
    ("options", "mend"),
    [
        ({"lane": "cheap"}, "lane must be one of"),
        ({"lane": "live", "batch_job": True}, "leave out one"),
        ({"lane": "job", "fallbacks": ["gpt-4o"]}, "run_failed_live"),
        ({"lane": "flex"}, "has no flex tier"),
        ({"lane": "flex", "model": "openai/gpt-5-mini", "service_tier": "priority"}, "leave out one"),
    ],
)
def test_lane_invalid_options_raise(server: Server, place: dict[str, Any], options: dict[str, Any], mend: str) -> None:
    """Before anything is sent."""
    with pytest.raises(ValueError, match=mend):
        llmbatch.create_chat_completions_batch(asked(2), **{"model": MODEL, **place, **options})
    assert not server.requests


def test_stream_with_job_lane_raises(place: dict[str, Any]) -> None:
    """It has no pieces."""
    with pytest.raises(ValueError, match="does not stream"):
        llmbatch.stream_chat_completions_batch(asked(2), MODEL, lane="cheapest", **place)


def test_flex_without_resources_falls_back_to_standard(server: Server, place: dict[str, Any], tmp_path: Path) -> None:
    """A third of flex requests are refused: every row is answered, at the price of the tier that the answer names."""
    tiers: list[str] = []

    def handler(request: Request) -> Response:
        tier = request.json.get("service_tier") or "default"
        tiers.append(tier)
        if tier == "flex" and tiers.count("flex") % 3 == 0:
            error = {"message": "Resource unavailable", "type": "resource_unavailable", "code": "resource_unavailable"}
            return Response(429, body={"error": error})
        answer = reply(request)
        assert isinstance(answer.body, dict)
        return replace(answer, body={**answer.body, "service_tier": tier})

    server.handler = handler
    model = "openai/gpt-5-mini"
    results = llmbatch.create_chat_completions_batch(asked(60), model, lane="flex", progress=False, **place)
    assert whole(results, 60)
    live = llmbatch.create_chat_completion(asked(1)[0], model, **place)["cost"]
    assert live
    lanes = [row["lane"] for row in results]
    assert lanes.count("flex") + lanes.count("live") == 60 == sum(map(bool, results.texts))
    assert lanes.count("live") == tiers.count("default") - 1
    assert [row["cost"] for row in results] == [pytest.approx(live * (HALF if lane == "flex" else 1)) for lane in lanes]
    assert sum(row["attempts"] for row in results) == len(tiers) - 1
    assert 0 < lanes.count("live") < 30
    assert f"{lanes.count('flex')} flex rows saved" in results.summary()
    results.report(tmp_path / "run.html")
    assert (
        f"saved against live prices by 0 job and {lanes.count('flex')} flex rows" in (tmp_path / "run.html").read_text()
    )


SCARCE = {"message": "Busy", "type": "resource_unavailable", "code": "resource_unavailable"}


@pytest.mark.parametrize(
    ("options", "tiers"),
    [
        ({"lane": "flex"}, ["flex", "flex", None]),
        ({"lane": "flex", "retries": 0}, ["flex", None]),
        ({"service_tier": "flex"}, ["flex"] * 4),
    ],
)
def test_flex_tier_is_left_only_by_the_flex_lane(
    server: Server, place: dict[str, Any], log: list[str], options: dict[str, Any], tiers: list[str | None]
) -> None:
    """After two attempts; who asks for the tier by its parameter waits for it, as for any refusal."""
    asked_of: list[str | None] = []

    def handler(request: Request) -> Response:
        asked_of.append(request.json.get("service_tier"))
        refused = asked_of[-1] == "flex" and len(asked_of) < 4
        return Response(429, body={"error": SCARCE}) if refused else reply(request)

    server.handler = handler
    given: dict[str, Any] = {"progress": False, **place, **options}
    (row,) = llmbatch.create_chat_completions_batch(asked(1), "openai/gpt-5-mini", **given)
    assert asked_of == tiers
    assert (row["attempts"], row.get("error")) == (len(tiers), None)
    assert not any("refusals" in line for line in log)


RUN = """
import sys
import llmbatch
from llmbatch._jobs import cheapest_run
from tests.batch_server import MODEL, asked
cheapest_run.LEAST_LIVE_SHARE, cheapest_run.CANCEL_SHARE = 0.65, 0.3  # 3 s for the job, 18 s for its end
place = {"api_base": sys.argv[1], "api_key": "k", "progress": False}
llmbatch.create_chat_completions_batch(asked(30), MODEL, **place)
given = {"lane": "cheapest", "deadline": 60, "max_tokens": 10, "checkpoint": sys.argv[2], "max_workers": 4}
results = llmbatch.create_chat_completions_batch(asked(40), MODEL, **place, **given)
print(len(results.succeeded), results.cost)
"""


@pytest.mark.processes
def test_cheapest_kill_at_any_moment_makes_no_second_job(
    warm: Warm, server: Server, batches: BatchProvider, price: float, tmp_path: Path
) -> None:
    """Kill -9 while the job is made, runs, is cancelled, and its rest is live: the same call goes on."""
    never(batches)
    batches.lines = dict.fromkeys(range(0, 40, 2), "missing")
    server.set(latency=0.02)
    kills, path, moments = 4, tmp_path / "run.jsonl", random.Random()  # noqa: S311 - whenever
    for _ in range(kills):
        with warm.script(RUN, server.api_base, str(path)) as process:
            time.sleep(moments.uniform(0.2, 4.0))
            process.send_signal(signal.SIGKILL)
    server.requests.clear()
    with warm.script(RUN, server.api_base, str(path)) as process:
        out, err = process.communicate()
    assert (process.returncode, err) == (0, "")
    succeeded, cost = out.split()
    assert int(succeeded) == 40
    assert len(batches.jobs) == 1
    kept = [line["response"]["body"]["choices"][0]["message"]["content"] for line in lines(path)]
    assert sorted(kept) == sorted(answer_to(f"Question {i}") for i in range(40))
    assert float(cost) == pytest.approx(price * (HALF * len(batches.answered) + 40 - len(batches.answered)))
    assert not path.with_name("run.jsonl.job").exists()


@pytest.mark.processes
def test_cheapest_hanging_upload_is_sent_live_in_time(
    server: Server, batches: BatchProvider, place: dict[str, Any], tmp_path: Path, jump: Any
) -> None:
    """The upload hangs: the rows are answered live by the deadline, and by the next call too."""
    served = server.handler

    def handler(request: Request) -> Response | None:
        assert served is not None
        answer = served(request)
        return replace(answer, delay=600.0) if answer is not None and request.path.endswith("/files") else answer

    server.handler = handler
    jump(SOON / 5, lambda: any(request.path.endswith("/files") for request in server.requests))
    results = cheapest(place, deadline=SOON, checkpoint=tmp_path / "run.jsonl")
    assert whole(results)
    assert {row["lane"] for row in results} == {"live"}
    assert results.elapsed < SOON
    assert not batches.jobs
    assert len(cheapest(place, deadline=SOON, checkpoint=tmp_path / "run.jsonl").resumed) == ROWS


def test_cheapest_rejected_input_file_is_sent_live_alone(
    batches: BatchProvider, place: dict[str, Any], tmp_path: Path
) -> None:
    """Of the files of two models the other is answered by its job."""
    batches.fault("POST", "/v1/batches", Response(401))
    requests = [
        {"prompt": f"Question {i}", "model": f"openai/{m}"} for m in ("gpt-4o", "gpt-4o-mini") for i in range(2)
    ]
    given: dict[str, Any] = {"lane": "cheapest", "checkpoint": tmp_path / "run.jsonl", "progress": False, **place}
    results = llmbatch.create_chat_completions_batch(requests, MODEL, **given)
    assert results.texts == [answer_to(f"Question {i}") for i in range(2)] * 2
    assert [row["lane"] for row in results] == ["live"] * 2 + ["job"] * 2
    assert len(batches.jobs) == 1


@pytest.mark.parametrize("lane", ["job", "cheapest"])
def test_lane_batch_without_id_raises(batches: BatchProvider, place: dict[str, Any], lane: str) -> None:
    """It may be there, and nobody could ask for it."""
    batches.fault("POST", "/v1/batches", Response(200, body={}))
    with pytest.raises(llmbatch.BatchJobError, match="gave no id"):
        llmbatch.create_chat_completions_batch(asked(2), MODEL, lane=lane, progress=False, **place)
