"""The cassette tool, used as a user's tests would: llmbatch's functions over real sockets, then without a server."""

from __future__ import annotations

import json
import threading
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from llmbatch import create_embeddings_batch
from llmbatch.testing import cassette, make_vcr
from tests.server import Response, Server, answer_to, vector_for
from tests.talk import KEY, batch, chats, place, question, script

if TYPE_CHECKING:
    from pathlib import Path

    from llmbatch import BatchResults

NOWHERE = "http://127.0.0.1:1/v1"


def ask(count: int, api_base: str, **options: Any) -> BatchResults:
    """`count` different questions."""
    return batch(api_base, chats(count), **{"model": "hosted_vllm/test-model", **options})


def test_hundreds_of_concurrent_rows_replay_in_order_without_a_server(server: Server, tmp_path: Path) -> None:
    """Rows recorded at 64 at once get their own answers back, whatever the port."""
    tape = tmp_path / "hundreds.yaml"
    with cassette(tape, record=True):
        ask(200, server.api_base, max_workers=64)
    server.close()
    with cassette(tape) as played:
        results = ask(200, NOWHERE, max_workers=64)
    assert results.texts == [answer_to(question(i)) for i in range(200)]
    assert played.play_count == 200
    assert played.all_played
    assert len(server.requests) == 200


@pytest.mark.parametrize("model", ["openai/test-model", "hosted_vllm/test-model"])
def test_both_transports_record_and_replay(server: Server, tmp_path: Path, model: str) -> None:
    """LiteLLM's OpenAI SDK route and its own HTTP handler work alike."""
    with cassette(tmp_path / "tape.yaml", record=True):
        recorded = ask(3, server.api_base, model=model)
    with cassette(tmp_path / "tape.yaml"):
        replayed = ask(3, NOWHERE, model=model)
    assert recorded.raise_for_errors().texts == replayed.texts


def test_embeddings_replay_in_order(server: Server, tmp_path: Path) -> None:
    """Chunks of texts are requests like any other."""
    texts = [f"text {i}" for i in range(50)]
    for base, record in ((server.api_base, True), (NOWHERE, False)):
        with cassette(tmp_path / "tape.yaml", record=record):
            results = create_embeddings_batch(texts, **place(base, model="openai/test-model"))
        assert results.embeddings == [pytest.approx(vector_for(text)) for text in texts]


def test_a_miss_is_a_failed_row_that_is_sent_once(server: Server, tmp_path: Path) -> None:
    """A request that was never recorded fails its own row, is not retried and reaches no server."""
    with cassette(tmp_path / "tape.yaml", record=True):
        ask(2, server.api_base)
    server.reset()
    with cassette(tmp_path / "tape.yaml"):
        results = ask(3, server.api_base)
    assert [row["attempts"] for row in results.failed] == [1]
    assert results.failed[0]["error_details"]["retryable"] is False
    assert results[2]["error"].startswith("CassetteMiss")
    assert server.requests == []


def test_a_recorded_retry_replays_as_a_retry(server: Server, tmp_path: Path) -> None:
    """A 503 and the answer after it are both in the file, in order."""
    server.enqueue(Response(503, {"retry-after": "0"}))
    for base, record in ((server.api_base, True), (NOWHERE, False)):
        with cassette(tmp_path / "tape.yaml", record=record) as tape:
            assert ask(1, base).raise_for_errors()[0]["attempts"] == 2
        assert len(tape) == 2


def test_an_answer_is_played_once_unless_repeats_are_allowed(server: Server, tmp_path: Path) -> None:
    """Asking again for what was recorded once is a miss."""
    with cassette(tmp_path / "tape.yaml", record=True):
        ask(1, server.api_base)
    with cassette(tmp_path / "tape.yaml"):
        assert not ask(1, NOWHERE).failed
        assert ask(1, NOWHERE).failed
    with cassette(tmp_path / "tape.yaml", allow_playback_repeats=True):
        assert not ask(1, NOWHERE).failed
        assert not ask(1, NOWHERE).failed


def test_no_key_gets_into_the_file(server: Server, tmp_path: Path) -> None:
    """Not from headers, query, body or an answer that repeats the key; and the file still replays."""
    token = {"token": "tid=12;exp=34", "expires_at": 1_800_000_000}
    server.handler = lambda request: Response(
        headers={"set-cookie": "session=cookie-secret", "openai-organization": "org-secret", "x-api-key": KEY},
        body=token if "token" in request.path else {"echo": f"you sent {KEY} and plain-secret-value", "ok": True},
    )
    headers = {"authorization": "Bearer plain-secret-value", "api-key": KEY, "x-custom": "custom-secret"}
    for base, record in ((server.url, True), ("http://127.0.0.1:1", False)):
        with cassette(tmp_path / "tape.yaml", record=record), httpx.Client(headers=headers) as client:
            sent = {"api_key": "body-secret", "messages": [f"my key is {KEY}"]}
            assert client.post(f"{base}/chat?key=query-secret&page=2", json=sent).json()["ok"]
            assert client.get(f"{base}/token").json()["expires_at"] == 1_800_000_000
            form = {"client_secret": "form-secret", "grant_type": "refresh"}
            assert client.post(f"{base}/login", data=form).json()["ok"]
    content = (tmp_path / "tape.yaml").read_text()
    assert "secret" not in content.replace("client_secret=REDACTED", "")
    assert KEY not in content
    assert "tid=12" not in content
    assert "page=2" in content


def test_uploads_match_whatever_their_boundary(server: Server, tmp_path: Path) -> None:
    """A multipart body has a random boundary, so uploads are matched on method and URI."""
    server.handler = lambda request: Response(body={"id": "file-1"})
    for base, record in ((server.api_base, True), (NOWHERE, False)):
        with cassette(tmp_path / "tape.yaml", record=record), httpx.Client() as client:
            file = {"file": ("batch.jsonl", b'{"custom_id": "1"}')}
            assert client.post(f"{base}/files", files=file, data={"purpose": "batch"}).json() == {"id": "file-1"}


def test_json_bodies_match_whatever_the_order_of_their_keys(server: Server, tmp_path: Path) -> None:
    """A new version of LiteLLM may write a body's keys in another order."""
    bodies = (b'{"model": "m", "n": 1}', b'{"n":1,"model":"m"}')
    for base, record, body in ((server.api_base, True, bodies[0]), (NOWHERE, False, bodies[1])):
        with cassette(tmp_path / "tape.yaml", record=record), httpx.Client() as client:
            answer = client.post(f"{base}/chat/completions", content=body, headers={"content-type": "application/json"})
            assert answer.status_code == 200


def test_recording_is_off_unless_asked_for(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """LLMBATCH_RECORD=1 records; without it a missing file says how to make it."""
    with pytest.raises(FileNotFoundError, match="LLMBATCH_RECORD=1"), cassette(tmp_path / "tape.yaml"):
        pytest.fail("nothing to replay")
    monkeypatch.setenv("LLMBATCH_RECORD", "1")
    with cassette(tmp_path / "tape.yaml"):
        assert not ask(1, server.api_base).failed
    assert (tmp_path / "tape.yaml").is_file()


def test_a_failed_recording_leaves_the_old_file(server: Server, tmp_path: Path) -> None:
    """Recording replaces the whole file, and only when the block ends well."""
    tape = tmp_path / "tape.yaml"
    with cassette(tape, record=True):
        ask(2, server.api_base)
    before = tape.read_bytes()

    def stopped_halfway() -> None:
        with cassette(tape, record=True):
            ask(1, server.api_base)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stopped_halfway()
    assert tape.read_bytes() == before
    with cassette(tape, record=True):
        ask(1, server.api_base)
    with cassette(tape) as smaller:
        assert len(smaller) == 1


def test_replaying_a_part_leaves_the_file_whole(server: Server, tmp_path: Path) -> None:
    """A test that uses fewer answers than were recorded does not lose the others."""
    tape = tmp_path / "tape.yaml"
    with cassette(tape, record=True):
        ask(3, server.api_base)
    before = tape.read_bytes()
    with cassette(tape) as played:
        ask(1, NOWHERE)
    assert tape.read_bytes() == before
    assert not played.all_played


def test_one_cassette_at_a_time(server: Server, tmp_path: Path) -> None:
    """Vcrpy patches the whole process: a second cassette is refused, also from another thread."""
    refused: list[RuntimeError] = []

    def another() -> None:
        try:
            with cassette(tmp_path / "two.yaml", record=True):
                pass
        except RuntimeError as error:
            refused.append(error)

    with cassette(tmp_path / "one.yaml", record=True):
        thread = threading.Thread(target=another)
        thread.start()
        thread.join()
    assert "Close that one first" in str(refused[0])
    with cassette(tmp_path / "three.yaml", record=True):
        assert not ask(1, server.api_base).failed


def test_the_vcr_can_be_used_with_vcrpys_own_options(server: Server, tmp_path: Path) -> None:
    """`make_vcr` takes them, and a filter of the user's runs beside ours."""

    def no_models(request: Any) -> Any:
        return None if request.uri.endswith("/models") else request

    vcr = make_vcr(record_mode="once", before_record_request=no_models)
    with vcr.use_cassette(str(tmp_path / "tape.yaml")) as tape, httpx.Client(headers={"api-key": KEY}) as client:
        client.get(f"{server.api_base}/models")
        client.post(f"{server.api_base}/chat/completions", json={"messages": []})
    assert len(tape) == 1
    assert KEY not in (tmp_path / "tape.yaml").read_text()


@pytest.mark.processes
def test_without_vcrpy_the_error_says_what_to_install() -> None:
    """`import llmbatch.testing` needs nothing; the first use names the package."""
    code = (
        "import sys; sys.modules['vcr'] = None\n"
        "import llmbatch.testing\n"
        "assert 'vcr.cassette' not in sys.modules\n"
        "try: llmbatch.testing.make_vcr()\n"
        "except ImportError as error: print(error)\n"
    )
    with script(code) as process:
        out, err = process.communicate(timeout=240)
    assert 'pip install "vcrpy>=9.4"' in out, err


def test_cassette_holds_no_value_of_a_credential(server: Server, tmp_path: Path) -> None:
    """What is passed as a credential by one name is redacted by value: in other fields, in answers, escaped."""
    tape = tmp_path / "tape.yaml"
    secrets = {
        "auth_token": "tok-11223344aabbcc",
        "api_secret": "sec-11223344aabbcc",
        "gateway": {"passphrase": 'quo"te/11223344', "again": KEY},
    }
    server.handler = lambda request: Response(200, {"x-request-id": "r-1"}, body=_echo(request.json["api_secret"]))
    given: dict[str, Any] = {"extra_body": secrets, "extra_headers": {"x-proxy-key": "hdr-11223344aabbcc"}, "seed": 7}
    given["extra_body"]["tenant"] = "hdr-11223344aabbcc"
    with cassette(tape, record=True):
        recorded = ask(1, server.api_base, **given)
    assert recorded.texts == ["sec-11223344aabbcc"], "the caller's answer is not changed"
    content = tape.read_text()
    for value in ("tok-11223344", "sec-11223344", "quo", KEY, "hdr-11223344"):
        assert value not in content
    with cassette(tape):
        assert ask(1, NOWHERE, **given).texts == ["REDACTED"]


def _echo(text: str) -> bytes:
    choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": text}}
    usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
    made = {"id": "c", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice], "usage": usage}
    return json.dumps(made).encode()


def test_cassette_without_body_match_is_rejected(server: Server, tmp_path: Path) -> None:
    """With vcrpy's and pytest-recording's defaults concurrent rows would swap their answers: nothing is sent."""
    import vcr

    tape = str(tmp_path / "tape.yaml")
    with vcr.use_cassette(tape, record_mode="once"):
        results = ask(3, server.api_base)
        assert {row["error_details"]["type"] for row in results} == {"CassetteMiss"}
        assert 'Add "body" to match_on' in results[0]["error"]
        assert results.cost == 0.0
        assert server.requests == []
        assert not ask(1, server.api_base).failed
        assert not ask(2, server.api_base, max_workers=1).failed
    with vcr.use_cassette(str(tmp_path / "body.yaml"), match_on=("method", "uri", "body")):
        assert not ask(3, server.api_base).failed
