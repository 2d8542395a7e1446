"""A provider's webhook tells a server that a job has ended; forged, repeated, late and foreign events do no harm."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
import runpy
import time
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, Any

import pytest
from openai.types.webhooks import BatchCompletedWebhookEvent

from llmbatch import BatchJob, BatchJobError
from tests.batch_server import submitted
from tests.wire import Response

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.batch_server import BatchProvider
    from tests.server import Server

KEY = b"a key of the webhook, 32 bytes.."
SECRET = f"whsec_{base64.b64encode(KEY).decode()}"
EXAMPLE = Path(__file__).parent.parent / "examples" / "webhooks.py"


def told(batch_id: str = "batch_1", kind: str = "batch.completed") -> bytes:
    """The body of OpenAI's event."""
    event = {"id": "evt_1", "object": "event", "type": kind, "created_at": 1, "data": {"id": batch_id}}
    return json.dumps(event).encode()


def signed(body: bytes, key: bytes = KEY, *, age: float = 0) -> dict[str, str]:
    """The headers of Standard Webhooks."""
    sent = str(int(time.time() - age))
    signature = hmac.new(key, b"evt_1." + sent.encode() + b"." + body, hashlib.sha256).digest()
    return {
        "Webhook-Id": "evt_1",
        "Webhook-Timestamp": sent,
        "Webhook-Signature": f"v1,{base64.b64encode(signature).decode()}",
    }


@pytest.fixture(autouse=True)
def _secret(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("OPENAI_WEBHOOK_SECRET", SECRET)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def post(server: Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[bytes, dict[str, str]], int]]:
    """The handler of examples/webhooks.py in a server; posts an event there, and gives the status."""
    monkeypatch.setenv("OPENAI_API_KEY", "sk-test")
    example = runpy.run_path(str(EXAMPLE))

    class Route(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(example["on_event"](body, self.headers))
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - http.server's name
            pass

    def post(body: bytes, headers: dict[str, str]) -> int:
        connection = HTTPConnection("127.0.0.1", application.server_port)
        connection.request("POST", "/", body, headers)
        status = connection.getresponse().status
        connection.close()
        return status

    with ThreadingHTTPServer(("127.0.0.1", 0), Route) as application:
        Thread(target=application.serve_forever, daemon=True).start()
        yield post
        application.shutdown()


def answers() -> dict[str, int]:
    """The files that the handler has written, and their lines."""
    return {path.name: len(path.read_text().splitlines()) for path in Path().glob("answers-*")}


def looks(server: Server) -> int:
    """How often the provider was asked about a batch."""
    return sum(request.method == "GET" and request.path.startswith("/v1/batches/") for request in server.requests)


def test_webhook_signed_event_finds_its_job(
    batches: BatchProvider, place: dict[str, Any], server: Server, post: Any
) -> None:
    """Among many jobs; only that one is looked at, and an event of no job here is answered too."""
    jobs = [submitted(place, state=f"jobs/{number}.json") for number in range(12)]
    assert post(told("batch_11"), signed(told("batch_11"))) == 200
    assert answers() == {f"answers-{jobs[10].id}.jsonl": 3}
    assert BatchJob.load("jobs/10.json").status == "completed"
    assert post(told("batch_99"), signed(told("batch_99"))) == 200
    assert post(told("resp_1", "response.completed"), signed(told("resp_1", "response.completed"))) == 200
    assert (len(answers()), looks(server)) == (1, 1)


def test_webhook_unsigned_event_is_ignored(
    batches: BatchProvider, place: dict[str, Any], server: Server, post: Any
) -> None:
    """Another key, a body that was changed, a replay, no headers, odd bytes: status 400 without a look."""
    submitted(place, state="jobs/one.json")
    body, good = told(), signed(told())
    forged = [
        (body, signed(body, b"another key")),
        (body.replace(b"completed", b"cancelled"), good),
        (body, signed(body, age=3600)),
        (body, signed(body, age=-3600)),
        (body, {}),
        (body, {**good, "Webhook-Signature": "v1,\xe9"}),
        (body, {**good, "Webhook-Timestamp": "soon"}),
        (body, {**good, "Webhook-Signature": ""}),
        (b"\xff" + body, signed(b"\xff" + body)),
        (b"{", signed(b"{")),
        (b"[1]", signed(b"[1]")),
        (b'{"data": null}', signed(b'{"data": null}')),
        (b"[" * 100_000, signed(b"[" * 100_000)),
    ]
    assert [post(*one) for one in forged] == [400] * len(forged)
    assert (answers(), looks(server)) == ({}, 0)
    turned = {**good, "Webhook-Signature": f"v1,AAAA {good['Webhook-Signature']} v2,BBBB"}
    assert post(body, turned) == 200, "while a secret is being changed, events have several signatures"
    assert len(answers()) == 1


@pytest.mark.parametrize("secret", ["", "  ", "whsec_", "whsec_...", "whsec_....................", "short"])
def test_webhook_guessable_secret_raises(
    batches: BatchProvider, place: dict[str, Any], monkeypatch: pytest.MonkeyPatch, secret: str
) -> None:
    """A placeholder would decode to a key of no bytes, with which forged events fit."""
    job = submitted(place)
    monkeypatch.setenv("OPENAI_WEBHOOK_SECRET", secret)
    for key in (b"", secret.encode()):
        with pytest.raises(ValueError, match="set OPENAI_WEBHOOK_SECRET, or pass secret="):
            job.refresh_from(told(), signed(told(), key))
    plain = "a secret of a sender of one's own"
    assert job.refresh_from(told(), signed(told(), plain.encode()), secret=f"{plain}\n").ended, "the argument counts"


def test_webhook_rejected_event_says_why_and_quotes_nothing(
    batches: BatchProvider, place: dict[str, Any], log: list[str]
) -> None:
    """Neither the secret nor the body, in the error or the log."""
    job = submitted(place)
    body = told("batch_quoted")
    for headers, why in (
        (signed(body, b"no"), "does not match"),
        (signed(body, age=900), "too old"),
        ({"webhook-id": "evt_1"}, "webhook-signature"),
        (None, "pass body and headers as they came"),
    ):
        with pytest.raises(ValueError, match=why) as raised:
            job.refresh_from(body, headers)
        assert "quoted" not in str(raised.value)
        assert raised.value.__cause__ is None
    with pytest.raises(ValueError, match="secret is this webhook's") as raised:
        job.refresh_from(body, signed(body), secret="whsec_not_quite_base_64_quoted")
    assert "quoted" not in str(raised.value)
    with pytest.raises(ValueError, match=r"signature is not valid .*does not match"):
        job.refresh_from(b"quoted \xff", signed(b"quoted \xff"))
    with pytest.raises(ValueError, match="Expecting property name"):
        job.refresh_from(b"{quoted", signed(b"{quoted"))
    assert "quoted" not in "".join(log)
    assert KEY.decode() not in "".join(log)


def test_webhook_event_of_another_job_raises(batches: BatchProvider, place: dict[str, Any], server: Server) -> None:
    """By the job at hand, without a look; the other job takes it."""
    one, other = submitted(place), submitted(place)
    with pytest.raises(BatchJobError, match=r"'batch_2' is not a batch of job .*BatchJob.of_event"):
        one.refresh_from(told("batch_2"), signed(told("batch_2")))
    assert looks(server) == 0
    assert other.refresh_from(told("batch_2"), signed(told("batch_2"))).status == "completed"


def test_webhook_parsed_event_is_only_a_hint(batches: BatchProvider, place: dict[str, Any]) -> None:
    """A dict or the SDK's own object, once checked by its owner; what it claims of the end is not believed."""
    batches.polls, batches.end = 3, "failed"
    job = submitted(place)
    event = json.loads(told())
    assert job.refresh_from(event).status == "in_progress"
    with pytest.raises(ValueError, match="event is parsed"):
        job.refresh_from(event, signed(told()))
    assert job.refresh_from(BatchCompletedWebhookEvent.model_validate(event)).status == "in_progress"
    assert asyncio.run(job.arefresh_from(told(), signed(told()))).status == "failed"
    for odd in ({}, None, 7, [], {"data": "batch_1"}):
        with pytest.raises(ValueError, match="no batch id"):
            job.refresh_from(odd)
    for none in ({}, "", "\ud800", 7):
        with pytest.raises(BatchJobError):
            job.refresh_from({"data": {"id": none}})
        job.save("job.json")
        assert BatchJob.of_event({"data": {"id": none}}, None, ["job.json"]) is None


def test_webhook_repeated_events_change_nothing(
    batches: BatchProvider, place: dict[str, Any], server: Server, post: Any
) -> None:
    """An ended job is not looked at again; its rows are the same."""
    job = submitted(place, state="jobs/one.json")
    for _ in range(3):
        assert post(told(), signed(told())) == 200
    assert looks(server) == 1
    assert job.refresh_from(told("batch_1", "batch.expired"), signed(told("batch_1", "batch.expired"))).ended
    assert answers() == {f"answers-{job.id}.jsonl": 3}


@pytest.mark.parametrize("kind", ["completed", "failed", "expired", "cancelled"])
def test_webhook_event_of_each_end_is_read(batches: BatchProvider, place: dict[str, Any], kind: str) -> None:
    """The status is the provider's, and is in the state file."""
    batches.end = kind
    job = submitted(place, state="job.json")
    body = told(kind=f"batch.{kind}")
    assert job.refresh_from(body, signed(body)).status == kind
    assert BatchJob.load("job.json").status == kind


def test_webhook_last_of_concurrent_handlers_sees_the_end(batches: BatchProvider, place: dict[str, Any]) -> None:
    """Each has read the state file before another has written it."""
    submitted(place, 2, state="job.json", max_rows=1)
    one, other = BatchJob.load("job.json"), BatchJob.load("job.json")
    batches.polls = 3
    batches._finish(batches.jobs["batch_2"], "completed")
    assert not one.refresh_from(told("batch_2"), signed(told("batch_2"))).ended
    batches.polls = 1
    assert other.refresh_from(told("batch_1"), signed(told("batch_1"))).ended


def test_webhook_concurrent_handlers_leave_one_whole_file(
    batches: BatchProvider, place: dict[str, Any], post: Any
) -> None:
    """The example's handler, for eight events of one job at the same time."""
    job = submitted(place, 8, state="jobs/one.json", max_rows=1)
    bodies = [told(batch_id) for batch_id in job.batch_ids]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(lambda body: post(body, signed(body)), bodies)) == [200] * 8
    assert answers() == {f"answers-{job.id}.jsonl": 8}
    assert BatchJob.load("jobs/one.json").ended


def test_webhook_unreachable_provider_raises(batches: BatchProvider, place: dict[str, Any]) -> None:
    """The look's failure is raised, the state stays, and the repeated event finds the end."""
    job = submitted(place, state="job.json")
    batches.fault("GET", "/v1/batches", Response(403))
    with pytest.raises(BatchJobError, match="did not look at batch_1"):
        job.refresh_from(told(), signed(told()))
    assert BatchJob.load("job.json").status == "validating"
    assert job.refresh_from(told(), signed(told())).ended
