"""No key and no prompt in logs, errors, reprs or checkpoints, whatever the provider echoes."""

from __future__ import annotations

import json
import traceback
from typing import TYPE_CHECKING, Any

import pytest

import llmbatch
from tests.server import Response
from tests.talk import batch, chats, lines

if TYPE_CHECKING:
    from pathlib import Path

    from tests.server import Server

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
def test_no_secret_leaves_the_request(  # noqa: PLR0917 - fixtures
    server: Server, log: list[str], tmp_path: Path, capfd: Any, handler: Any, route: str
) -> None:
    """Rows' errors, the log, the results' texts and the checkpoint hold neither key nor prompt."""
    server.handler = handler
    path = tmp_path / "run.jsonl"
    options = {"api_key": SECRET, "extra_headers": {"x-token": HEADER}, "retries": 1, "deadline": 3.0}
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


def test_embeddings_keep_secrets_too(server: Server, log: list[str], tmp_path: Path) -> None:
    """Texts are prompts."""
    server.handler = echo(400)
    path = tmp_path / "run.jsonl"
    texts = [f"{PROMPT} {i}" for i in range(3)]
    rows = llmbatch.create_embeddings_batch(
        texts, model="openai/e", api_base=server.api_base, api_key=SECRET, checkpoint=path
    )
    assert len(rows.failed) == 3
    assert held(json.dumps(rows) + "".join(log) + path.read_text()) == []


def test_misuse_names_no_secret(server: Server) -> None:
    """An error about the call does not print its arguments."""
    for wrong in ({"max_worker": 3}, {"temperature": 9}, {"max_workers": 0}):
        with pytest.raises(ValueError) as caught:
            batch(server.api_base, ROWS, api_key=SECRET, **wrong)
        assert held(str(caught.value)) == []
    rows = batch(server.api_base, [[{"role": "user", "content": object(), "name": PROMPT}], *chats(1)], api_key=SECRET)
    assert held(json.dumps(rows)) == []
