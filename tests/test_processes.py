"""`processes=2`: worker processes make LiteLLM's calls, and the results are the same as with one process."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from pydantic import BaseModel

import llmbatch
from llmbatch._litellm import load
from llmbatch._request import process_pool
from tests.server import Response
from tests.talk import answered, batch, chats, idle, lines, place, until

if TYPE_CHECKING:
    from tests.server import Server
    from tests.warm import Warm

pytestmark = pytest.mark.processes


class City(BaseModel):
    name: str


def _stat(pid: int | str) -> list[str]:
    """State, parent and more, of a process that is there."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ["Z", "0"]


def children(parent: int) -> list[int]:
    """The processes that a process has started and that still run."""
    stats = {int(path.name): _stat(path.name) for path in Path("/proc").iterdir() if path.name.isdecimal()}
    return [pid for pid, (state, above, *_) in stats.items() if above == str(parent) and state != "Z"]


def alive(pid: int) -> bool:
    """Whether a process is there and no zombie."""
    return _stat(pid)[0] != "Z"


def gone(pids: list[int]) -> bool:
    """Whether they all end within seconds."""
    end = time.monotonic() + 120
    while any(map(alive, pids)) and time.monotonic() < end:
        time.sleep(0.05)
    return not any(map(alive, pids))


def ready(server: Server) -> list[int]:
    """Return the ids of two workers that are ready; later requests go to them."""
    batch(server.api_base, chats(1), processes=2)
    pool = process_pool._pools[2]
    end = time.monotonic() + 240
    while not all(worker.ready for worker in pool.workers):
        assert time.monotonic() < end
        time.sleep(0.05)
    server.reset()
    return [worker.process.pid for worker in pool.workers if worker.process]


@pytest.fixture(autouse=True)
def kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the workers of one test for the next ones, though pytest puts each test's name into the environment."""
    known = process_pool._circumstances

    def known_but_for_the_test() -> Any:
        environment, *others = known()
        environment.pop("PYTEST_CURRENT_TEST", None)
        return environment, *others

    monkeypatch.setattr(process_pool, "_circumstances", known_but_for_the_test)
    monkeypatch.setattr(process_pool, "IDLE_SECONDS_AFTER_INTERRUPT", 60.0)


def test_auto_starts_workers_only_where_the_cpu_limits_the_batch(
    server: Server, monkeypatch: pytest.MonkeyPatch, log: list[str]
) -> None:
    """Neither for a short batch nor for one that waits for answers; then the log says so once."""
    monkeypatch.setattr(process_pool, "_cores", lambda: 2)
    started: list[int] = []
    make = process_pool._pool
    monkeypatch.setattr(process_pool, "_pool", lambda count, **kwargs: started.append(count) or make(count, **kwargs))
    assert not batch(server.api_base, chats(20), processes="auto").failed
    monkeypatch.setattr(process_pool, "BUSY_SECONDS", 0.0)
    server.set(latency=0.05)
    assert not batch(server.api_base, chats(20), processes="auto", max_workers=1).failed
    assert not started
    monkeypatch.setattr(process_pool, "BUSY_SHARE", -1.0)
    assert not batch(server.api_base, chats(20), processes="auto").failed
    assert set(started) == {2}
    assert sum("CPU limits the batch" in line for line in log) == 1


def test_rows_one_and_two_processes_same(server: Server, tmp_path: Path) -> None:
    """Answers, usage, cost, ids, errors and bodies on the wire; what one has answered the other finds."""
    ready(server)
    server.handler = lambda request: {
        "Who": Response(400, {"x-request-id": "1"}, {"error": {"message": "no such question", "code": "bad"}}),
        "Why": Response(401, body={"error": {"message": "no"}}),
    }.get(request.text)
    rows = [*chats(20), *([{"role": "user", "content": text}] for text in ("Who", "Why", "Half \ud83d emoji")), 17]
    made = {}
    for count in (1, 2):
        server.reset()
        given: dict[str, Any] = {"tools": [children], "seed": 7, "checkpoint": tmp_path / f"{count}.jsonl"}
        made[count] = batch(server.api_base, rows, processes=count, **given)
        made[count, "sent"] = sorted(request.body for request in server.requests)
    varies = {"created": 0, "started_at": "", "elapsed": 0, "waited": 0}
    one, two = ([{**row, **varies} for row in made[count]] for count in (1, 2))
    assert one == two
    assert made[1, "sent"] == made[2, "sent"]
    assert len(made[2].failed) == 4
    assert {line["custom_id"] for line in lines(tmp_path / "1.jsonl")} == {
        line["custom_id"] for line in lines(tmp_path / "2.jsonl")
    }
    server.reset()
    batch(server.api_base, rows[:20], processes=1, tools=[children], seed=7, checkpoint=tmp_path / "2.jsonl")
    assert not server.requests


def test_pydantic_class_and_embeddings_cross_to_worker(server: Server) -> None:
    """A pydantic class is the schema that LiteLLM makes of it; embeddings go the same way."""
    ready(server)
    server.handler = lambda request: None if "input" in request.json else Response(
        body={"choices": [{"index": 0, "finish_reason": "stop", "message": {"content": '{"name": "Rome"}'}}]}
    )  # fmt: skip
    sent = []
    for count in (1, 2):
        server.reset()
        assert batch(server.api_base, chats(1), processes=count, response_format=City).parsed == [City(name="Rome")]
        sent.append(server.requests[0].json)
    assert sent[0] == sent[1]
    place_ = place(server.api_base, model="openai/e")
    one, two = (llmbatch.create_embeddings_batch(["a", "b"], processes=n, **place_).embeddings for n in (1, 2))
    assert one == two


def test_worker_killed_loses_no_row(server: Server) -> None:
    """Its rows are retried, with one attempt more, and a new worker starts."""
    ready(server)
    server.set(latency=0.02)
    stop = threading.Event()

    def kill() -> None:
        killed = 0
        while not stop.wait(0.2) and killed < 1:
            for worker in list(process_pool._pools[2].workers)[:1]:
                if worker.ready and worker.process is not None:
                    os.kill(worker.process.pid, signal.SIGKILL)
                    killed += 1

    killer = threading.Thread(target=kill)
    killer.start()
    try:
        rows = batch(server.api_base, chats(300), processes=2, max_workers=16, retries=50)
    finally:
        stop.set()
        killer.join()
    assert [index for index, row in enumerate(rows) if not answered(row, index)] == []
    assert sum(row["attempts"] for row in rows) > len(rows)
    server.set(latency=0.0)


def test_rate_limit_headers_reach_limiter(server: Server) -> None:
    """Headers cross the pipe: the limits that the provider states throttle the parent."""
    ready(server)
    server.set(rpm=1200)
    rows = batch(server.api_base, chats(60), processes=2, model="openai/paced-in-workers")
    assert not rows.failed
    assert server.stats.limited <= 3


def test_deadline_cancels_requests_of_workers(server: Server, jump: Any) -> None:
    """At the deadline workers cancel their requests."""
    ready(server)
    server.handler = lambda request: Response(200, delay=60)
    jump(60, lambda: len(server.requests) == 6)
    rows = batch(server.api_base, chats(6), processes=2, deadline=60)
    assert {row["error_details"]["type"] for row in rows} == {"DeadlineExceeded"}
    assert idle(server)


SCRIPT = """
import sys, llmbatch
from tests.talk import batch, chats
print("begins", flush=True)
batch(sys.argv[1], chats(100000), processes=2, max_workers=8)
"""


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_worker_parent_ended_ends_too(warm: Warm, server: Server, how: signal.Signals) -> None:
    """Neither after kill -9 nor after Ctrl-C; the script itself, without a main guard, ran once."""
    server.set(latency=0.05)
    with warm.script(SCRIPT, server.api_base) as process:
        until(process, lambda: len(children(process.pid)) == 2)
        started = children(process.pid)
        until(process, lambda: len(server.requests) > 20)
        process.send_signal(how)
        out, _ = process.communicate()
    assert out == "begins\n"
    assert gone(started)


def test_worker_idle_ends(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """Kept for the next batch, not for ever."""
    pids = ready(server)
    monkeypatch.setattr(process_pool, "IDLE_SECONDS", 0.2)
    assert not batch(server.api_base, chats(1), processes=2).failed
    assert gone(pids)
    assert not process_pool._pools


def test_worker_copies_environment_settings_and_prices(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """A key of the environment, LiteLLM's own settings and a registered price count in workers as in the parent."""
    litellm = load()
    ready(server)
    monkeypatch.setenv("OPENAI_API_KEY", "sk-of-this-moment")
    monkeypatch.setattr(litellm, "drop_params", True)
    monkeypatch.setitem(litellm.model_cost, "our-own", {"input_cost_per_token": 1.0, "output_cost_per_token": 0.0,
                                                        "litellm_provider": "openai", "mode": "chat"})  # fmt: skip
    given: dict[str, Any] = {"model": "openai/our-own", "api_base": server.api_base, "progress": False}
    first = llmbatch.create_chat_completions_batch(chats(1), processes=2, **given)
    pool = process_pool._pools[2]
    while not all(worker.ready for worker in pool.workers):
        time.sleep(0.05)
    (second,) = llmbatch.create_chat_completions_batch(chats(1), processes=2, **given)
    assert second["cost"] == first[0]["cost"] == float(second["usage"]["prompt_tokens"])
    assert {request.headers["authorization"] for request in server.requests} == {"Bearer sk-of-this-moment"}
    for worker in pool.workers:
        assert worker.process is not None
        assert b"sk-" not in Path(f"/proc/{worker.process.pid}/cmdline").read_bytes()


def test_shared_failure_of_worker_stops_batch(server: Server) -> None:
    """The scope of a failure crosses the pipe: a bad key stops the batch after a few requests."""
    ready(server)
    server.handler = lambda request: Response(401, body={"error": {"message": "Incorrect API key provided"}})
    rows = batch(server.api_base, chats(100), processes=2, max_workers=4)
    assert len(server.requests) <= 5 + 3 + 3
    assert len(rows.failed) == 100


def test_row_rejection_of_worker_concerns_row_only(server: Server) -> None:
    """Rejections of single rows, all at the beginning, cost no other row."""
    ready(server)
    flagged = Response(403, body={"error": {"message": "Your input was flagged"}})
    server.handler = lambda request: flagged if int(request.text.split()[2].rstrip("?")) < 20 else None
    rows = batch(server.api_base, chats(40), processes=2, max_workers=4)
    assert [index for index, row in enumerate(rows) if not answered(row, index)] == list(range(20))
