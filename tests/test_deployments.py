"""A batch over several deployments is answered by all of them, and goes on when some fail."""

from __future__ import annotations

import json
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest

import llmbatch
from tests.server import Response, Server, vector_for
from tests.talk import KEY, answered, chats, question

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

pytestmark = pytest.mark.usefixtures("quick_backoff")

MODEL = "openai/gpt-4o-mini"


def deployments(*servers: Server, **more: Any) -> list[dict[str, Any]]:
    """Deployments named a, b, c, …, one for each server."""
    return [
        {"name": "abcdef"[at], "model": MODEL, "api_base": server.api_base, "api_key": KEY, **more}
        for at, server in enumerate(servers)
    ]


def spread(rows: Any, *servers: Server, **options: Any) -> llmbatch.BatchResults:
    """A chat batch over some servers."""
    given = {"deployments": deployments(*servers), "progress": False, **options}
    return llmbatch.create_chat_completions_batch(rows, **given)


@pytest.fixture
def servers(provider: Callable[..., Server]) -> list[Server]:
    """Three servers."""
    return [provider(latency=0.02) for _ in range(3)]


@pytest.mark.parametrize("more", [{}, {"transport": "direct"}])
def test_deployments_share_a_batch(servers: list[Server], more: dict[str, Any]) -> None:
    """Each row has the answer to its own question and says who gave it; every server gets some."""
    results = spread(chats(60), *servers, **more)
    assert all(answered(row, at) for at, row in enumerate(results))
    assert Counter(row["deployment"] for row in results) == {
        name: server.stats.ok for name, server in zip("abc", servers, strict=True)
    }
    assert all(server.stats.ok for server in servers)
    for name, server in zip("abc", servers, strict=True):
        assert f"deployment {name}: {server.stats.ok} answers" in results.summary()
    by = results.by("deployment")
    assert sum(len(rows) for rows in by.values()) == 60
    assert {row["request_model"] for row in results} == {MODEL}


def test_deployments_with_concurrency_limits_lose_no_row(provider: Callable[..., Server]) -> None:
    """Servers that reject above 1, 2 and 4 requests in flight answer together."""
    servers = [provider(latency=0.05, most_in_flight=most) for most in (1, 2, 4)]
    results = spread(chats(140), *servers, max_workers=24, transport="direct")
    assert not results.failed
    assert all(server.stats.ok for server in servers)


def test_deployment_that_is_down_is_set_aside(servers: list[Server], log: list[str]) -> None:
    """A dead server costs no row and no retry, and is logged once."""
    servers[1].close()
    results = spread(chats(40), *servers, retries=1)
    assert not results.failed
    assert {row["deployment"] for row in results} == {"a", "c"}
    assert sum("Deployment b: set aside" in line for line in log) == 1


@pytest.mark.parametrize("status", [500, 403])
def test_deployment_that_fails_everything_loses_no_row(servers: list[Server], status: int) -> None:
    """One that answers 500 or 403 to all is left alone after a few requests."""
    servers[0].handler = lambda _: Response(status)
    results = spread(chats(60), *servers, retries=1)
    assert not results.failed
    assert len(servers[0].requests) < 20


def test_deployment_that_hangs_holds_two_rows_at_a_time(servers: list[Server]) -> None:
    """Those move on at their timeout, and no row is lost."""
    open_requests: list[int] = []
    servers[0].handler = lambda _: open_requests.append(servers[0].stats.in_flight) or Response(delay=600)
    results = spread(chats(60), *servers, timeout=3, max_workers=20)
    assert not results.failed
    assert len(open_requests) <= 6
    assert max(open_requests) <= 2


@pytest.mark.parametrize(
    ("status", "words"), [(401, "Incorrect API key provided"), (404, "The model `m` does not exist")]
)
def test_deployment_without_key_or_model_drops_out(
    servers: list[Server], log: list[str], status: int, words: str
) -> None:
    """It is used no more, which one line says, and the others answer."""
    servers[0].handler = lambda _: Response(status, body={"error": {"message": words}})
    results = spread(chats(60), *servers)
    assert not results.failed
    assert sum("Deployment a: used no more" in line for line in log) == 1
    assert len(servers[0].requests) < 15
    assert not any(KEY in line or question(0) in line for line in log)


def test_all_deployments_without_key_fail_like_one_server(servers: list[Server]) -> None:
    """The rest of the batch is not sent, and the rows say why."""
    for server in servers:
        server.handler = lambda _: Response(401, body={"error": {"message": "Incorrect API key provided"}})
    results = spread(chats(80), *servers)
    assert len(results.failed) == 80
    assert {row["error_details"]["type"] for row in results} <= {"AuthenticationError", "NotSent"}
    assert "Check the API key" in results[-1]["error"]
    assert sum(len(server.requests) for server in servers) < 40


def test_all_deployments_down_is_waited_for(servers: list[Server]) -> None:
    """As with a single server: for a bounded time."""
    for server in servers:
        server.close()
    results = spread(chats(5), *servers, server_wait=5)
    assert {row["error_details"]["type"] for row in results} <= {"ConnectionError", "NotSent"}
    assert "server was not available" in results[-1]["error"]


def test_deployment_that_comes_back_is_used_again(provider: Callable[..., Server], log: list[str]) -> None:
    """It is probed while the other answers."""
    first, second = provider(latency=0.02), provider(latency=0.02)
    down = [True]
    body = {"error": {"message": "Loading model", "type": "unavailable_error", "code": 503}}
    second.handler = lambda _: Response(503, body=body) if down[0] else None
    first.handler = lambda _: down.__setitem__(0, len(first.requests) < 40)
    results = spread(chats(250), first, second, max_workers=4)
    assert not results.failed
    assert any("Deployment b: it answers again" in line for line in log)
    assert second.stats.ok


def test_transient_error_moves_to_another_deployment(servers: list[Server]) -> None:
    """At once, and without a retry being counted."""
    for server in servers[:2]:
        server.handler = lambda _: Response(500)
    results = spread(chats(3), *servers, retries=1, max_workers=1)
    assert not results.failed
    assert {row["deployment"] for row in results} == {"c"}


def test_rejected_request_is_not_sent_elsewhere(servers: list[Server]) -> None:
    """A 400 of a server that answers others is the request's own fault: it fails after one attempt."""
    for server in servers:
        server.handler = lambda request: Response(400) if "number 50?" in request.text else None
    results = spread(chats(60), *servers)
    (failed,) = results.failed
    assert failed["attempts"] == 1
    assert failed["deployment"] in "abc"


@pytest.mark.parametrize("answer", [Response(400), Response(200, body={"choices": []})])
def test_deployment_that_answers_nothing_right_loses_no_row(servers: list[Server], answer: Response) -> None:
    """One that rejects every request, or answers with nothing, is left alone although it is the quickest."""
    servers[0].handler = lambda _: answer
    results = spread(chats(60), *servers)
    assert not results.failed
    assert len(servers[0].requests) < 20


def test_request_goes_back_to_a_deployment_when_no_other_is_left(servers: list[Server]) -> None:
    """It failed at one, and the others dropped out or are too dear: it does not wait for them for ever."""
    denied = Response(401, body={"error": {"message": "Incorrect API key provided"}})
    servers[0].enqueue(*[Response(500)] * 4)
    servers[1].handler = lambda _: denied
    results = spread(chats(12), *servers[:2], deadline=60)
    assert not results.failed
    cheap, dear = deployments(servers[2], servers[0])
    servers[2].enqueue(Response(500))
    cheap |= {"input_cost_per_token": 1e-6, "output_cost_per_token": 1e-6}
    dear |= {"input_cost_per_token": 1.0, "output_cost_per_token": 1.0}
    given = {"deployments": [cheap, dear], "max_cost": 1, "deadline": 60, "progress": False}
    assert not llmbatch.create_chat_completions_batch(chats(4), **given).failed


def test_request_restricts_its_deployments(servers: list[Server]) -> None:
    """A request goes to those that it names, and an unknown name fails its row."""
    rows = [{"prompt": question(i), "deployments": ["b"] if i % 2 else ["a", "c"]} for i in range(20)]
    results = spread([*rows, {"prompt": "x", "deployments": ["z"]}], *servers)
    assert "no deployment None" in spread([{"prompt": "x", "deployments": [None]}], *servers)[0]["error"]
    assert all(row["deployment"] == "b" for row in results[1:20:2])
    assert all(row["deployment"] in "ac" for row in results[0:20:2])
    assert "no deployment 'z'" in results[20]["error"]
    assert "a, b, c" in results[20]["error"]


def test_fallback_is_tried_when_no_deployment_can_answer(servers: list[Server]) -> None:
    """Another model stands in for deployments that are all down."""
    for server in servers[:2]:
        server.close()
    fallback = {"model": "openai/gpt-4o", "api_base": servers[2].api_base, "api_key": KEY}
    results = spread(chats(4), *servers[:2], fallbacks=[fallback], retries=1)
    assert not results.failed
    assert {row["model"] for row in results} == {"gpt-4o"}
    assert all(row["fallback"]["instead_of"] == MODEL for row in results)


def test_checkpoint_does_not_depend_on_the_deployment(servers: list[Server], tmp_path: Path) -> None:
    """A rerun with other servers sends nothing that was answered; neither does one with a single server."""
    path = tmp_path / "run.jsonl"
    spread(chats(6), *servers[:2], checkpoint=path)
    again = spread(chats(6), servers[2], checkpoint=path)
    alone = {"model": MODEL, "api_base": servers[2].api_base, "api_key": KEY}
    single = llmbatch.create_chat_completions_batch(chats(6), checkpoint=path, progress=False, **alone)
    assert len(again.resumed) == len(single.resumed) == 6
    assert not servers[2].requests
    assert {row["deployment"] for row in again} <= {"a", "b"}
    assert KEY not in path.read_text()


def test_cost_counts_with_the_price_of_each_deployment(servers: list[Server]) -> None:
    """A row costs what its deployment charges, and max_cost leaves out deployments that are too dear."""
    cheap, dear = deployments(*servers[:2])
    cheap |= {"input_cost_per_token": 1e-6, "output_cost_per_token": 1e-6}
    dear |= {"input_cost_per_token": 1.0, "output_cost_per_token": 1.0}
    results = llmbatch.create_chat_completions_batch(chats(8), deployments=[cheap, dear], max_cost=1, progress=False)
    assert not results.failed
    assert not servers[1].requests
    assert results.cost == pytest.approx(sum(row["usage"]["total_tokens"] * 1e-6 for row in results))
    both = llmbatch.create_chat_completions_batch(chats(8), deployments=[cheap, dear], progress=False)
    for row in both:
        price = 1.0 if row["deployment"] == "b" else 1e-6
        assert row["cost"] == pytest.approx(row["usage"]["total_tokens"] * price)
    assert {row["deployment"] for row in both} == {"a", "b"}


def test_streams_and_reasks_use_deployments(servers: list[Server]) -> None:
    """Deltas come from any of them, and a re-ask may go elsewhere."""
    given = {"deployments": deployments(*servers), "progress": False}
    events = list(llmbatch.stream_chat_completions_batch(chats(12), **given))
    rows = {event["index"]: event["row"] for event in events if "row" in event}
    assert all(answered(row, at) for at, row in rows.items())
    assert len({row["deployment"] for row in rows.values()}) > 1
    asked = spread(chats(6), *servers, reask=2, validate=lambda _: "again")
    assert all(row["asks"] == 3 and row["deployment"] in "abc" for row in asked)


def test_embeddings_use_deployments(servers: list[Server]) -> None:
    """Each text has its own vector, whoever made it."""
    texts = [f"text {i}" for i in range(200)]
    given = {"deployments": deployments(*servers, model="openai/text-embedding-3-small"), "progress": False}
    results = llmbatch.create_embeddings_batch(texts, **given)
    assert results.embeddings == [vector_for(text) for text in texts]
    assert {row["deployment"] for row in results} == set("abc")


@pytest.mark.nightly
@pytest.mark.processes
def test_worker_processes_send_to_deployments(servers: list[Server]) -> None:
    """The choice is made in the parent process."""
    results = spread(chats(20), *servers, processes=2)
    assert all(answered(row, at) for at, row in enumerate(results))
    assert len({row["deployment"] for row in results}) > 1


def test_limits_of_a_deployment_are_kept(provider: Callable[..., Server]) -> None:
    """max_parallel_requests bounds the requests in flight there, and weight 0 leaves one out."""
    servers = [provider(latency=0.02) for _ in range(3)]
    first, second, third = deployments(*servers)
    given = [{**first, "max_parallel_requests": 2}, {**second, "weight": 3}, {**third, "weight": 0}]
    results = llmbatch.create_chat_completions_batch(chats(60), deployments=given, max_workers=12, progress=False)
    assert not results.failed
    assert servers[0].stats.peak_in_flight <= 2
    assert not servers[2].requests


def test_router_configuration_works_unchanged(servers: list[Server], monkeypatch: pytest.MonkeyPatch) -> None:
    """Items of a model_list: groups by model_name, keys from the environment, and a fallback to another group."""
    monkeypatch.setenv("GPU_KEY", KEY)
    model_list = json.loads(
        json.dumps([
            {
                "model_name": "small",
                "litellm_params": {
                    "model": "openai/qwen", "api_base": server.api_base, "api_key": "os.environ/GPU_KEY", "rpm": 6000,
                    "tpm": 10**7, "weight": 1, "max_retries": 3, "stream_timeout": 60,
                },
                "model_info": {"id": f"gpu-{at}"},
            }
            for at, server in enumerate(servers[:2])
        ] + [{"model_name": "big", "litellm_params": {"model": "openai/llama", "api_base": servers[2].api_base,
                                                      "api_key": "os.environ/GPU_KEY"}}])
    )  # fmt: skip
    results = llmbatch.create_chat_completions_batch(chats(20), "small", deployments=model_list, progress=False)
    assert not results.failed
    assert {row["deployment"] for row in results} == {"gpu-0", "gpu-1"}
    assert {request.json["model"] for server in servers[:2] for request in server.requests} == {"qwen"}
    assert servers[0].requests[0].headers["authorization"] == f"Bearer {KEY}"
    for server in servers[:2]:
        server.handler = lambda _: Response(400)
    results = llmbatch.create_chat_completions_batch(
        chats(2), "small", deployments=model_list, fallbacks=["big"], progress=False
    )
    assert {row["model"] for row in results} == {"llama"}
    rows = [{"prompt": "a", "model": "big"}, {"prompt": "b", "model": "none"}]
    one, other = llmbatch.create_chat_completions_batch(rows, "small", deployments=model_list, progress=False)
    assert one["model"] == "llama"
    assert "no deployment answers for model 'none'" in other["error"]
