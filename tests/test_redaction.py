"""No key and no prompt in logs, errors, reprs or checkpoints, whatever the provider echoes."""

from __future__ import annotations

import hashlib
import html
import json
import re
import traceback
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

import llmbatch
from llmbatch import BatchJob, submit_batch_job
from tests.batch_server import MODEL
from tests.effort import examples
from tests.server import Response, Server
from tests.talk import batch, chats, lines

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.batch_server import BatchProvider

SECRET = "sk-proj-Xy12Secret34KeyAb56Cd78"
HEADER = "tok-headersecret-987654321"
PROMPT = "The patient Jane Roe, born 1961, has told me that"
ROWS: list[Any] = [
    [{"role": "system", "content": f"{PROMPT} A"}, {"role": "user", "content": f"{PROMPT} B {i}"}] for i in range(6)
]


def echo(status: int) -> Any:
    """An error that quotes the request and its key, as proxies do."""
    return lambda request: Response(
        status,
        body={
            "error": {
                "message": f"rejected: {request.headers.get('authorization')} {request.body.decode()}",
                "code": "x",
            }
        },
    )


def held(text: str) -> list[str]:
    return [secret for secret in (SECRET, HEADER, PROMPT, "Jane Roe") if secret in text]


ECHOES = {
    **{f"a {status}": echo(status) for status in (400, 401, 404, 429, 500)},
    "a page": lambda request: Response(200, {"content-type": "text/html"}, f"<p>{request.body.decode()} {SECRET}</p>"),
    "a torn answer": lambda request: Response(200, body=request.body[:-2]),
    "a reset": lambda request: Response(reset=True),
    "a good answer": lambda request: None,
}


@pytest.mark.parametrize("handler", ECHOES.values(), ids=ECHOES)
@pytest.mark.parametrize("route", ["openai", "hosted_vllm"])
@pytest.mark.usefixtures("quick_backoff")
def test_secrets_are_only_in_request(  # noqa: PLR0917 - fixtures
    server: Server, log: list[str], tmp_path: Path, capfd: Any, handler: Any, route: str
) -> None:
    """Rows' errors, the log, the results' texts and the checkpoint hold neither key nor prompt."""
    server.handler = handler
    path = tmp_path / "run.jsonl"
    options = {"api_key": SECRET, "extra_headers": {"x-token": HEADER}, "retries": 1, "deadline": 1.5}
    rows = batch(
        server.api_base, ROWS, model=f"{route}/gpt-4o-mini", checkpoint=path, fallbacks=["openai/gpt-4o"], **options
    )
    for row in rows.failed:
        assert held(json.dumps(row)) == []
    failures = llmbatch.BatchResults(rows.failed)
    assert held(repr(failures) + failures.summary() + failures._repr_html_()) == []
    assert held("\n".join(log)) == []
    assert log
    assert held(json.dumps([{**line, "response": None} for line in lines(path)])) == []
    assert SECRET not in path.read_text()
    captured = capfd.readouterr()
    assert held(captured.out + captured.err) == []


def test_exceptions_hold_no_secret(server: Server) -> None:
    """What the one-row form raises shows neither in its text nor in its traceback's chain."""
    server.handler = echo(400)
    with pytest.raises(llmbatch.RequestFailedError) as caught:
        llmbatch.create_chat_completion(ROWS[0], model="openai/m", api_base=server.api_base, api_key=SECRET)
    assert held(str(caught.value) + repr(caught.value)) == []
    assert held("".join(traceback.format_exception(caught.value))) == []


def test_embeddings_keep_secrets(server: Server, log: list[str], tmp_path: Path) -> None:
    """Texts are prompts."""
    server.handler = echo(400)
    path = tmp_path / "run.jsonl"
    texts = [f"{PROMPT} {i}" for i in range(3)]
    rows = llmbatch.create_embeddings_batch(
        texts, model="openai/e", api_base=server.api_base, api_key=SECRET, checkpoint=path
    )
    assert len(rows.failed) == 3
    assert held(json.dumps(rows) + "".join(log) + path.read_text()) == []


def test_misuse_errors_hold_no_secret(server: Server) -> None:
    """An error about the call does not print its arguments."""
    for wrong in ({"max_worker": 3}, {"temperature": 9}, {"max_workers": 0}):
        with pytest.raises(ValueError) as caught:
            batch(server.api_base, ROWS, api_key=SECRET, **wrong)
        assert held(str(caught.value)) == []
    rows = batch(server.api_base, [[{"role": "user", "content": object(), "name": PROMPT}], *chats(1)], api_key=SECRET)
    assert held(json.dumps(rows)) == []


RUN = 20
REASON = "maximum context length is 8192 tokens"
PLACES: dict[str, Any] = {
    "user": lambda text: [{"role": "user", "content": text}],
    "system": lambda text: [{"role": "system", "content": text}, {"role": "user", "content": "Hi"}],
    "part": lambda text: [{"role": "user", "content": [{"type": "text", "text": part} for part in ("Hi", text)]}],
    "call": lambda text: [
        {"role": "assistant", "content": None, "tool_calls": [
            {"id": "c", "type": "function", "function": {"name": "f", "arguments": json.dumps({"who": text})}}]},
        {"role": "tool", "tool_call_id": "c", "content": "none"},
    ],
    "result": lambda text: [{"role": "tool", "tool_call_id": "c", "content": text}],
}  # fmt: skip
ECHOED: dict[str, Any] = {
    "as it is": str,
    "as JSON": lambda text: json.dumps(text)[1:-1],
    "as JSON in JSON": lambda text: json.dumps(json.dumps(text, ensure_ascii=False))[1:-1],
    "as Python": repr,
    "as HTML": html.escape,
    "spaced": lambda text: text.replace(" ", "\n  "),
}
WORDS = st.text(
    st.sampled_from("abcdefghijklmno xyz ABC 0123456789 \"',.;:!?&<>{}/é日本🙂"), min_size=RUN, max_size=120
)


@pytest.mark.more_at_night
@settings(max_examples=examples(20), deadline=None, suppress_health_check=list(HealthCheck))
@given(
    rows=st.lists(
        st.tuples(
            WORDS.map(lambda text: " ".join(text.split()) + " a word of twenty and more"),
            st.sampled_from(sorted(PLACES)), st.sampled_from(sorted(ECHOED)), st.integers(0, 99), st.integers(RUN, 150),
        ), min_size=1, max_size=12,
    )
)  # fmt: skip
@example(rows=[(PROMPT * 30, place, form, at, 1500) for at, place in enumerate(PLACES) for form in ECHOED])
def test_redacted_removes_shared_runs_of_20_characters(module_server: Server, rows: list[Any]) -> None:
    """Wherever it stood, whichever part is quoted, however it is escaped; the error's own words stay."""
    prompts = [f"#{at}# {text}" for at, (text, *_) in enumerate(rows)]

    def quote(request: Any) -> Response:
        at = int(re.search(r"#(\d+)#", request.body.decode())[1])
        _, _, form, start, length = rows[at]
        quoted = ECHOED[form](prompts[at][start : start + length])
        return Response(400, body={"error": {"message": f"near <{quoted}>: {REASON}"}})

    module_server.handler = quote
    asked = [PLACES[row[1]](text) for row, text in zip(rows, prompts, strict=True)]
    for row, text in zip(batch(module_server.api_base, asked, retries=0), prompts, strict=True):
        runs = {text[at : at + RUN] for at in range(len(text) - RUN + 1)}
        assert not [run for run in runs for form in ECHOED.values() if form(run) in row["error"]], row["error"]
        assert REASON in row["error"]


def test_redacted_compares_long_texts_whole(server: Server) -> None:
    """A megabyte against much of it, repetitive or not; and a short prompt as a whole."""
    numbers = "".join(hashlib.sha256(bytes([at % 256, at // 256])).hexdigest() for at in range(16_000))
    texts = ["a" * 1_000_000, numbers, "Jane Roe"]
    server.handler = lambda request: Response(400, body={"error": {"message": f"refused: {request.text[:60_000]}"}})
    rows = batch(server.api_base, [[{"role": "user", "content": text}] for text in texts])
    assert [row["error"].replace(" ", "") for row in rows] == ["BadRequestError:refused:[removed]"] * 3


KEYS: dict[str, dict[str, Any]] = {
    "an argument": {"api_key": "corp.proxy.key.9911"},
    "of a header": {"extra_headers": {"Authorization": "Bearer corp.proxy.key.9911"}},
    "a header of another name": {"extra_headers": {"Ocp-Apim-Subscription-Key": "corp.proxy.key.9911"}},
    "of Azure": {"azure_ad_token": "corp.proxy.key.9911"},
    "of AWS": {"aws_secret_access_key": "corp.proxy.key.9911"},
    "of Vertex": {"vertex_credentials": json.dumps({"type": "x", "private_key": "corp.proxy.key.9911"})},
}


@pytest.mark.parametrize("given_", KEYS.values(), ids=KEYS)
def test_redacted_removes_keys_of_arguments(server: Server, given_: dict[str, Any]) -> None:
    """Whole or in part, whatever it looks like."""
    server.handler = lambda request: Response(
        401, body={"error": {"message": "corp.proxy.key.9911 or corp.proxy.k***"}}
    )
    (row,) = batch(server.api_base, chats(1), **given_)
    assert row["error"] == "AuthenticationError: [key] or [key]***"


@pytest.mark.parametrize(
    "name",
    ["OPENAI_API_KEY", "GROQ_API_KEY", "AWS_SESSION_TOKEN", "AZURE_CLIENT_SECRET", "WATSONX_ZENAPIKEY", "litellm"],
)
def test_redacted_removes_keys_of_environment(server: Server, monkeypatch: Any, name: str) -> None:
    """Of whichever provider, and those that are set on LiteLLM itself."""
    if name == "litellm":
        litellm = pytest.importorskip("litellm")
        monkeypatch.setattr(litellm, "api_key", "team7-secret-value-42")
    else:
        monkeypatch.setenv(name, "team7-secret-value-42")
    server.handler = lambda request: Response(401, body={"error": {"message": "Invalid key: team7-secret-value-42"}})
    (row,) = batch(server.api_base, chats(1))
    assert row["error"] == "AuthenticationError: Invalid key: [key]"


def test_redacted_removes_key_patterns_and_keeps_words(server: Server) -> None:
    """A proxy's own key in its error is nobody's here; a word may begin as keys do."""
    keys = ["sk-proj-Ab12Cd34Ef56", "sk_live_Ab12Cd34Ef", "gsk_Ab12Cd34Ef56", "AIzaSyAb12Cd34Ef", "ghp_Ab12Cd34Ef56"]
    words = "skateboarding-tricks, skeleton_keys_and_more, pkcs12-certificates, hfs_filesystems"
    server.handler = lambda request: Response(400, body={"error": {"message": f"no {words} with {' '.join(keys)}"}})
    (row,) = batch(server.api_base, chats(1))
    assert row["error"] == f"BadRequestError: no {words} with {' '.join(['[key]'] * len(keys))}"


def test_redacted_removes_secrets_of_address(server: Server, log: list[str]) -> None:
    """As the values of its query; a user or a password in it raises before anything is sent."""
    base = server.api_base + "?sig=sig-of-the-proxy-7"
    server.handler = lambda request: Response(400, body={"error": {"message": f"no: {base}"}})
    (row,) = batch(base, chats(1), retries=0)
    assert "of-the-proxy" not in json.dumps(row) + "".join(log)


def test_job_rows_and_state_hold_no_prompt(batches: BatchProvider, place: dict[str, Any], tmp_path: Path) -> None:
    """What the provider says of a row is compared with its copy of the input, and left out where that is gone."""
    state = tmp_path / "job.json"
    rows = [[{"role": "user", "content": f"{PROMPT} he is ill {at}"}] for at in range(3)]
    job = submit_batch_job(rows, MODEL, state=state, **place)
    refusal = {"message": f"rejected {PROMPT} he is ill 1: too long", "type": "x", "code": "bad"}
    line = {"custom_id": job.state.custom_ids[1], "response": {"status_code": 400, "body": {"error": refusal}}}
    batches.fates[job.state.custom_ids[1]] = "missing"
    batches.jobs["batch_1"]["error_file_id"] = batches.add_file("e", json.dumps(line).encode()).id
    row = job.wait(0.01).results()[1]
    assert row["error"] == "bad: rejected [removed]: too long"
    del batches.files["file-1"]
    row = BatchJob.load(state, api_key=SECRET).results()[1]
    assert held(row["error"]) == []
    assert "left out" in row["error"]


def test_job_rejected_file_error_holds_no_prompt(batches: BatchProvider, place: dict[str, Any], tmp_path: Path) -> None:
    """Neither in the rows nor in the state file nor in what an upload raises."""
    state = tmp_path / "job.json"
    problem = {"code": "bad", "message": f"near: {PROMPT}, of key {SECRET}", "line": 2}
    batches.end = lambda lines: {"status": "failed", "errors": {"data": [problem, {**problem, "line": None}]}}
    job = submit_batch_job(ROWS[:3], MODEL, state=state, **place)
    results = job.wait(0.01).results()
    assert held(json.dumps(results) + state.read_text()) == []
    assert "near: [removed], of key [key]" in results[1]["error"]
    batches.fault("POST", "/v1/files", Response(400, body={"error": {"message": f"line 1: {PROMPT}; {SECRET}"}}))
    with pytest.raises(llmbatch.BatchJobError, match="line 1") as caught:
        submit_batch_job(ROWS[:3], MODEL, **place)
    assert held("".join(traceback.format_exception(caught.value))) == []


@pytest.fixture(scope="module")
def module_server() -> Iterator[Server]:
    with Server() as server:
        yield server
