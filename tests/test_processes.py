"""`processes=2`: LiteLLM's part of the calls runs in children, and nobody sees a difference but the clock."""

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
    """Two children that serve; what is asked from here on goes to them."""
    batch(server.api_base, chats(1), processes=2)
    pool = process_pool._pools[2]
    end = time.monotonic() + 240
    while not all(child.ready for child in pool.children):
        assert time.monotonic() < end
        time.sleep(0.05)
    server.reset()
    return [child.process.pid for child in pool.children if child.process]


@pytest.fixture(autouse=True)
def kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """Children of one test serve the next ones, though pytest tells each test's name in the environment."""
    known = process_pool._circumstances

    def known_but_for_the_test() -> Any:
        environment, *others = known()
        environment.pop("PYTEST_CURRENT_TEST", None)
        return environment, *others

    monkeypatch.setattr(process_pool, "_circumstances", known_but_for_the_test)
    monkeypatch.setattr(process_pool, "INTERRUPTED_SECONDS", 60.0)


def test_rows_are_the_same_with_one_process_and_with_two(server: Server, tmp_path: Path) -> None:
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
    one, two = ([{**row, "created": 0, "elapsed": 0, "waited": 0} for row in made[count]] for count in (1, 2))
    assert one == two
    assert made[1, "sent"] == made[2, "sent"]
    assert len(made[2].failed) == 4
    assert {line["custom_id"] for line in lines(tmp_path / "1.jsonl")} == {
        line["custom_id"] for line in lines(tmp_path / "2.jsonl")
    }
    server.reset()
    batch(server.api_base, rows[:20], processes=1, tools=[children], seed=7, checkpoint=tmp_path / "2.jsonl")
    assert not server.requests


def test_what_is_no_plain_data_arrives_all_the_same(server: Server) -> None:
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


def test_a_killed_child_loses_no_row(server: Server) -> None:
    """Its rows are sent again as a fault each, of which nobody knows the cost, and a new child comes."""
    ready(server)
    server.set(latency=0.02)
    stop = threading.Event()

    def kill() -> None:
        killed = 0
        while not stop.wait(0.2) and killed < 1:
            for child in list(process_pool._pools[2].children)[:1]:
                if child.ready and child.process is not None:
                    os.kill(child.process.pid, signal.SIGKILL)
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


def test_a_refusal_reaches_the_limiter(server: Server) -> None:
    """Headers cross the pipe: what the provider states paces the parent."""
    ready(server)
    server.set(rpm=1200)
    rows = batch(server.api_base, chats(60), processes=2, model="openai/paced-in-children")
    assert not rows.failed
    assert server.stats.limited <= 3


def test_cancelling_reaches_what_is_in_flight(server: Server, jump: Any) -> None:
    """At the deadline children let go of their requests."""
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
def test_no_child_outlives_its_parent(warm: Warm, server: Server, how: signal.Signals) -> None:
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


def test_idle_children_end(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """Kept for the next batch, not for ever."""
    pids = ready(server)
    monkeypatch.setattr(process_pool, "IDLE_SECONDS", 0.2)
    assert not batch(server.api_base, chats(1), processes=2).failed
    assert gone(pids)
    assert not process_pool._pools


def test_children_follow_the_parents_environment_settings_and_prices(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A key of the environment, LiteLLM's own settings and a registered price count in children as in the parent."""
    litellm = load()
    ready(server)
    monkeypatch.setenv("OPENAI_API_KEY", "sk-of-this-moment")
    monkeypatch.setattr(litellm, "drop_params", True)
    monkeypatch.setitem(litellm.model_cost, "our-own", {"input_cost_per_token": 1.0, "output_cost_per_token": 0.0,
                                                        "litellm_provider": "openai", "mode": "chat"})  # fmt: skip
    given: dict[str, Any] = {"model": "openai/our-own", "api_base": server.api_base, "progress": False}
    first = llmbatch.create_chat_completions_batch(chats(1), processes=2, **given)
    pool = process_pool._pools[2]
    while not all(child.ready for child in pool.children):
        time.sleep(0.05)
    (second,) = llmbatch.create_chat_completions_batch(chats(1), processes=2, **given)
    assert second["cost"] == first[0]["cost"] == float(second["usage"]["prompt_tokens"])
    assert {request.headers["authorization"] for request in server.requests} == {"Bearer sk-of-this-moment"}
    for child in pool.children:
        assert child.process is not None
        assert b"sk-" not in Path(f"/proc/{child.process.pid}/cmdline").read_bytes()
