"""Whatever a server sends becomes that row's error; the rows beside it are good and memory stays bounded."""

from __future__ import annotations

import json
import socket
from typing import TYPE_CHECKING, Any

import pytest

import llmbatch
from tests.hostile import GOOD, Gauge, body, dripped, endless_headers, hostile, huge, plain, sse
from tests.replies import said
from tests.talk import KEY, batch, streamed

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = [pytest.mark.contract, pytest.mark.usefixtures("quick_backoff")]

ANSWER = said("hi").body
RAW = json.dumps(ANSWER).encode()
PIECE = {
    "id": "c",
    "object": "chat.completion.chunk",
    "created": 1,
    "model": "m",
    "choices": [{"index": 0, "delta": {"role": "assistant", "content": "hel"}, "finish_reason": None}],
}
CHUNK = json.dumps(PIECE)
ROUTES = pytest.mark.parametrize("route", ["openai", "hosted_vllm"])
BAD = [{"role": "user", "content": "bad"}]
BESIDE = [[{"role": "user", "content": f"{GOOD} {i}"}] for i in range(2)]


def ask(script: Callable[[socket.socket], None], route: str = "openai", **options: Any) -> tuple[dict[str, Any], int]:
    """The row of a bad answer, with good ones beside it, and how often it was sent."""
    with hostile(script) as (base, seen):
        rows = batch(base, [BAD, *BESIDE], model=f"{route}/m", **{"retries": 1, "timeout": 20.0, **options})
        sent = sum(GOOD.encode() not in request.body for request in seen)
    assert len(rows) == 3
    assert not llmbatch.BatchResults(rows[1:]).failed, "the rows beside a bad one are good"
    return dict(rows[0]), sent


GARBLED = {
    "invalid UTF-8": body(RAW.replace(b"hi", b"\xff\xfe\x80")),
    "an HTML page": body(b"<html><body>Please sign in</body></html>", kind="text/html"),
    "an empty 200": body(b""),
    "a 204": plain(b"HTTP/1.1 204 No Content\r\n\r\n"),
    "an empty object": body({}),
    "no choices": body({key: value for key, value in ANSWER.items() if key != "choices"}),
    "choices that are null": body({**ANSWER, "choices": None}),
    "a body that is no gzip": plain(
        b"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: 5\r\nconnection: close\r\n\r\nhello"
    ),
    "a hundred thousand brackets": body(b'{"choices":' + b"[" * 100_000 + b"]" * 100_000 + b"}"),
}


@ROUTES
@pytest.mark.parametrize("script", GARBLED.values(), ids=GARBLED)
def test_status_200_without_answer_is_unparsable(script: Any, route: str) -> None:
    """It is sent again as often as asked, then it is a row that says what came."""
    row, sent = ask(script, route)
    details = row["error_details"]
    assert (details["type"], details["status_code"], details["retryable"]) == ("UnparsableAnswer", 200, True)
    assert row["attempts"] == sent == 2
    assert row["choices"] == []


@ROUTES
@pytest.mark.parametrize("what", [None, [], "hello", 7], ids=["null", "list", "string", "number"])
@pytest.mark.filterwarnings("ignore:Pydantic serializer")
def test_status_200_with_other_json_type_fails_row(what: Any, route: str) -> None:
    """JSON that is no object is an error row like any other."""
    row, sent = ask(body(what), route)
    assert "error" in row
    assert row["attempts"] == sent


@pytest.mark.parametrize("kind", ["text/plain", "application/octet-stream", ""])
def test_wrong_content_type_keeps_answer(kind: str) -> None:
    """An answer is read whatever the server calls it."""
    row, _ = ask(body(ANSWER, kind=kind))
    assert row["choices"][0]["message"]["content"] == "hi"


BROKEN = {
    "cut body": body(RAW, length=len(RAW) + 100),
    "closed connection": plain(b""),
    "no HTTP": plain(b"\x00\x01\x02 this is no HTTP\r\n\r\n"),
    "bad chunk": plain(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nZZZ\r\nhello"),
}


@ROUTES
@pytest.mark.parametrize("script", BROKEN.values(), ids=BROKEN)
def test_broken_http_is_connection_error(script: Any, route: str) -> None:
    """It has no status, may be retried, and its price is unknown."""
    row, sent = ask(script, route)
    details = row["error_details"]
    assert (details["type"], details["status_code"], details["retryable"]) == ("ConnectionError", None, True)
    assert row["attempts"] == 2
    assert sent >= 2
    assert row["cost"] is None


@ROUTES
def test_endless_headers_fail_once(route: str) -> None:
    """The answer may have been paid for, and the same would come again."""
    row, sent = ask(endless_headers, route)
    assert (row["error_details"]["type"], row["error_details"]["retryable"]) == ("AnswerTooLarge", False)
    assert (row["attempts"], sent, row["cost"]) == (1, 1, None)


HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 900\r\n\r\n"


@pytest.mark.parametrize("script", [dripped(HEAD, 0.1), dripped(b" " * 900, 0.1, HEAD)], ids=["head", "body"])
def test_dripping_answer_ends_at_timeout(script: Any) -> None:
    """A byte now and then does not keep an attempt alive; what it cost is not known."""
    row, sent = ask(script, timeout=2.5, retries=0)
    assert row["error"] == "Timeout: no answer within 2.5 s"
    assert (row["error_details"]["retryable"], row["cost"], sent) == (True, None, 1)


@ROUTES
@pytest.mark.parametrize(("status", "retryable"), [("500 Internal Server Error", True), ("400 Bad Request", False)])
def test_error_of_100_mb_is_read_partly(route: str, status: str, retryable: bool) -> None:
    """Only its beginning is read; the row has its status."""
    ask(body(b"warm", status="400 Bad Request"), route)
    with Gauge() as memory:
        row, _ = ask(huge(100, status, b'{"error":{"message":"', b'"}}'), route, retries=0, timeout=60.0)
    assert (row["error_details"]["status_code"], row["error_details"]["retryable"]) == (int(status[:3]), retryable)
    assert len(row["error"]) < 1000
    assert memory.growth < 60


@ROUTES
def test_answer_of_50_mb_is_read(route: str) -> None:
    """A long answer is given whole, for a few times its size in memory."""
    before, after = RAW.split(b"hi")
    with Gauge() as memory:
        row, _ = ask(huge(50, "200 OK", before, after), route, retries=0, timeout=60.0)
    assert len(row["choices"][0]["message"]["content"]) == 50 * 2**20
    assert memory.growth < 400


@ROUTES
def test_answer_without_end_fails_row(route: str) -> None:
    """Beyond 64 MB it is no answer; it is not asked for again."""
    before, after = RAW.split(b"hi")
    with Gauge() as memory:
        row, sent = ask(huge(300, "200 OK", before, after), route, timeout=60.0)
    details = row["error_details"]
    assert (details["type"], details["status_code"], details["retryable"], sent) == ("AnswerTooLarge", 200, False, 1)
    assert memory.growth < 250


@ROUTES
def test_redirect_in_circle_fails_row(route: str) -> None:
    """It says that the address is wrong, and is not retried."""
    row, _ = ask(body(b"", status="308 Permanent Redirect", location="/v1/chat/completions"), route)
    assert row["error_details"]["type"] == "TooManyRedirects"
    assert (row["attempts"], row["error_details"]["retryable"]) == (1, False)


@ROUTES
def test_tls_to_plain_port_is_connection_error(route: str) -> None:
    """Nothing was sent, nothing was paid."""
    with hostile(body(ANSWER)) as (base, _):
        (row,) = batch(base.replace("http:", "https:"), [BAD], model=f"{route}/m", retries=1, server_wait=0)
    assert row["error_details"]["type"] == "ConnectionError"
    assert (row["error_details"]["retryable"], row["attempts"]) == (True, 2)


@ROUTES
def test_refused_connection_is_connection_error(route: str) -> None:
    """Nobody listens: without server_wait it is retried as often as asked, and costs nothing."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    (row,) = batch(f"http://127.0.0.1:{port}/v1", [BAD], model=f"{route}/m", retries=1, server_wait=0)
    assert row["error_details"]["type"] == "ConnectionError"
    assert (row["error_details"]["retryable"], row["attempts"], row["cost"]) == (True, 2, 0.0)


@pytest.mark.filterwarnings("ignore:Pydantic serializer")
@ROUTES
def test_answer_with_parts_or_odd_numbers_is_paid_once(route: str) -> None:
    """What LiteLLM cannot read but is whole is a good row after one attempt."""
    parts = [{"type": "thinking", "thinking": [{"type": "text", "text": "so"}]}, {"type": "text", "text": "hi"}]
    message = {"role": "assistant", "content": parts}
    usage = {"prompt_tokens": 3.0, "completion_tokens": 1.5, "total_tokens": None}
    row, sent = ask(body({**ANSWER, "choices": [{**ANSWER["choices"][0], "message": message}]}), route)
    assert llmbatch.BatchResults([row]).texts == ["hi"]
    other, again = ask(body({**ANSWER, "usage": usage}), route)
    assert llmbatch.BatchResults([other]).texts == ["hi"]
    assert (sent, again) == (1, 1)


STREAMS = {
    "cut": (sse(CHUNK), "ConnectionError", None, True),
    "only [DONE]": (sse("[DONE]"), "EmptyAnswer", 200, True),
    "nothing": (sse(), "ConnectionError", None, True),
    "an error in it": (sse(CHUNK, json.dumps({"error": {"message": "boom", "code": 502}})), "StreamError", 502, True),
    "a page": (body(b"<html>sign in</html>", kind="text/html"), "ConnectionError", None, True),
    "a 500": (body({"error": {"message": "no"}}, status="500 Internal Server Error"), "InternalServerError", 500, True),
    "a 400": (body({"error": {"message": "no"}}, status="400 Bad Request"), "BadRequestError", 400, False),
}


@ROUTES
@pytest.mark.parametrize(("script", "kind", "status", "retryable"), STREAMS.values(), ids=STREAMS)
def test_stream_without_end_fails_row(script: Any, kind: str, status: int | None, retryable: bool, route: str) -> None:
    """Never a short answer, whether it was cut, has an error in it or is no stream at all."""
    with hostile(script) as (base, seen):
        (row,) = streamed(base, [BAD], model=f"{route}/m", retries=1)
    details = row["error_details"]
    assert (details["type"], details["status_code"], details["retryable"]) == (kind, status, retryable)
    assert row["attempts"] == len(seen) == (2 if retryable else 1)
    assert row["choices"] == []


def test_stream_with_permanent_error_is_not_retried() -> None:
    """An error event that no retry mends ends the row."""
    error = {"message": "bad tool call", "type": "invalid_request_error", "code": "tool_use_failed"}
    with hostile(sse(CHUNK, json.dumps({"error": error}))) as (base, seen):
        (row,) = streamed(base, [BAD], model="openai/m")
    assert row["error"] == "StreamError: bad tool call"
    assert (row["error_details"]["status_code"], len(seen)) == (400, 1)


EMBEDDINGS = {
    "an HTML page": (body(b"<html></html>", kind="text/html"), None),
    "an empty object": (body({}), None),
    "a 500 of 100 MB": (huge(100, "500 Internal Server Error", b'{"error":{"message":"', b'"}}'), 500),
    "a cut body": (body(b'{"data": [', length=1000), None),
}


@pytest.mark.parametrize(("script", "status"), EMBEDDINGS.values(), ids=EMBEDDINGS)
def test_embeddings_from_broken_server_fail_rows(script: Any, status: int | None) -> None:
    """A broken answer fails the texts of its request, with one row each and no vector made up."""
    with hostile(script) as (base, _), Gauge() as memory:
        rows = llmbatch.create_embeddings_batch(["a", "b"], model="openai/m", api_base=base, api_key=KEY, retries=1)
    assert [("error" in row, row["choices"]) for row in rows] == [(True, []), (True, [])]
    assert rows.embeddings == [None, None]
    if status is not None:
        assert {row["error_details"]["status_code"] for row in rows} == {status}
    assert memory.growth < 60
