"""The HTTP session: redirects, large headers, proxies and certificates, before and around what LiteLLM does."""

from __future__ import annotations

import contextlib
import socket
import threading
from typing import TYPE_CHECKING, Any

import pytest

from tests.replies import said
from tests.server import Response
from tests.talk import KEY, batch, chats

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.server import Request, Server

pytestmark = pytest.mark.contract

ROUTES = [
    "openai/m", "hosted_vllm/m", "anthropic/claude-3-5-haiku-20241022", "gemini/gemini-2.0-flash", "openrouter/m",
    "azure/m",
]  # fmt: skip


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("model", ROUTES)
def test_redirect_to_other_host_gets_neither_key_nor_prompt(
    provider: Callable[..., Server], model: str, status: int
) -> None:
    """Nothing at all is sent there; the row names both hosts and what to do, after one attempt."""
    first, other = provider(), provider()
    first.handler = lambda request: Response(status, {"location": f"http://localhost:{other.port}{request.path}"}, "")
    rows = batch(first.url, chats(10), model=model, max_workers=2)
    assert other.requests == []
    assert len(first.requests) <= 2
    assert rows[0]["error_details"]["type"] == "RedirectedElsewhere"
    assert f"localhost:{other.port}" in rows[0]["error"]
    assert "Set api_base" in rows[0]["error"]


@pytest.mark.parametrize("status", [307, 308])
@pytest.mark.parametrize("model", ROUTES[:3])
def test_redirect_within_origin_is_followed(server: Server, model: str, status: int) -> None:
    """With the key and the prompt, as before."""

    def handler(request: Request) -> Response | None:
        if not request.path.startswith("/new"):
            return Response(status, {"location": f"/new{request.path}"}, "")
        assert any(KEY in value for value in request.headers.values())
        if model.startswith("anthropic"):
            content = [{"type": "text", "text": "hi"}]
            usage = {"input_tokens": 1, "output_tokens": 1}
            head = {"id": "m", "type": "message", "role": "assistant", "model": "m", "stop_reason": "end_turn"}
            return Response(body={**head, "content": content, "usage": usage})
        return said("hi")

    server.handler = handler
    (row,) = batch(server.url, chats(1), model=model)
    assert "error" not in row, row
    assert [request.method for request in server.requests] == ["POST", "POST"]


@pytest.mark.parametrize(
    "headers",
    [{f"x-h{i}": "v" for i in range(200)}, {"x-policy": "a" * 20_000}],
    ids=["200 headers", "a header of 20 kB"],
)
def test_large_headers_are_accepted(server: Server, headers: dict[str, str]) -> None:
    """Gateways send them; the answer is paid for once and kept."""
    server.enqueue(Response(200, headers, said("fine").body))
    rows = batch(server.api_base, chats(1))
    assert rows.texts == ["fine"]
    assert len(server.requests) == 1


def test_larger_headers_fail_once(server: Server) -> None:
    """Headers beyond all reason lose the answer, which may have been paid for; it is not asked for again."""
    server.handler = lambda request: Response(200, {"x-policy": "a" * 400_000}, said("fine").body)
    (row,) = batch(server.api_base, chats(1))
    assert row["error_details"]["type"] == "AnswerTooLarge"
    assert row["cost"] is None
    assert len(server.requests) == 1


@contextlib.contextmanager
def listener(answer: bytes) -> Iterator[tuple[int, list[bytes]]]:
    """A port that answers each connection with these bytes and closes it, and what it was sent."""
    seen: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            while True:
                try:
                    connection, _ = listening.accept()
                except OSError:
                    return
                with connection, contextlib.suppress(OSError):
                    seen.append(connection.recv(65536))
                    connection.sendall(answer)

        threading.Thread(target=serve, daemon=True).start()
        yield listening.getsockname()[1], seen
        listening.shutdown(socket.SHUT_RDWR)


@pytest.mark.parametrize("model", ["openai/m", "hosted_vllm/m"])
def test_socks_proxy_is_rejected_before_anything_is_sent(monkeypatch: pytest.MonkeyPatch, model: str) -> None:
    """The row names the proxy and the variables; no row is tried again."""
    with listener(b"") as (port, seen):
        monkeypatch.setenv("HTTP_PROXY", f"socks5h://user:s3cret-word@127.0.0.1:{port}")
        rows = batch("http://socks.test/v1", chats(20), model=model, max_workers=2)
    assert seen == []
    assert sum(row["attempts"] for row in rows) <= 2
    assert rows[0]["error_details"]["type"] == "ProxyError"
    assert "SOCKS" in rows[0]["error"]
    assert "HTTPS_PROXY" in rows[0]["error"]
    assert not any("s3cret-word" in row["error"] for row in rows)


@pytest.mark.parametrize("base", ["https://tls.test/v1", "http://plain.test/v1"])
def test_proxy_that_wants_password_fails_at_once(monkeypatch: pytest.MonkeyPatch, base: str) -> None:
    """A 407, in a tunnel or not, names HTTPS_PROXY and is not retried."""
    answer = b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
    with listener(answer) as (port, _):
        monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{port}")
        monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{port}")
        rows = batch(base, chats(20), max_workers=2)
    assert sum(row["attempts"] for row in rows) <= 2
    assert rows[0]["error_details"]["type"] == "ProxyError"
    assert all("HTTPS_PROXY" in row["error"] for row in rows)


ERRORS = {
    "OpenRouter: raw JSON": (
        Response(400, body={"error": {"message": "Provider returned error", "code": 400, "metadata": {
            "raw": '{"error": {"message": "supports at most 1 image"}}', "provider_name": "Crucible"}}}),
        "Provider returned error: Crucible: supports at most 1 image",
    ),
    "OpenRouter: raw text": (
        Response(400, body={"error": {"message": "Provider returned error", "metadata": {"raw": "must contain json"}}}),
        "must contain json",
    ),
    "FastAPI: text": (Response(422, body={"detail": "model is busy"}), "model is busy"),
    "FastAPI: fields": (
        Response(422, body={"detail": [{"loc": ["body", "n"], "msg": "Input should be less than 5", "type": "x"}]}),
        "body.n: Input should be less than 5",
    ),
    "an error with status 200": (Response(200, body={"error": {"message": "no room", "code": 400}}), "no room"),
    "words with status 200": (Response(200, body={"error": "Something odd"}), "Something odd"),
    "a missing /v1, LM Studio": (
        Response(200, body={"error": "Unexpected endpoint or method. (POST /chat/completions)"}),
        "(POST /chat/completions) (check api_base: most servers want an address that ends in /v1)",
    ),
    "a missing /v1, FastAPI": (Response(404, body={"detail": "Not Found"}), "Not Found (check api_base"),
    "a missing /v1, Go": (Response(404, {"content-type": "text/plain"}, "404 page not found"), "check api_base"),
    "a missing /v1, Express": (
        Response(404, {"content-type": "text/html"}, "<pre>Cannot POST /chat/completions</pre>"),
        "check api_base",
    ),
}  # fmt: skip


@pytest.mark.parametrize("model", ["openai/m", "hosted_vllm/m"])
@pytest.mark.parametrize(("response", "words"), ERRORS.values(), ids=ERRORS)
def test_provider_explanation_reaches_row(server: Server, response: Response, words: str, model: str) -> None:
    """Whatever its shape, and by either of LiteLLM's ways to call a provider."""
    server.handler = lambda _: response
    (row,) = batch(server.api_base, chats(1), model=model, retries=0)
    assert words in row["error"]


@pytest.mark.parametrize("name", ["retry-after", "llm_provider-retry-after", "x-ratelimit-retry-after"])
def test_retry_after_is_read_by_each_name(server: Server, name: str) -> None:
    """LiteLLM's proxy puts the upstream's header behind a prefix."""
    server.enqueue(Response(429, {name: "1"}))
    rows: Any = batch(server.api_base, chats(1), model=f"litellm_proxy/{name}")
    assert not rows.failed
    first, second = server.requests
    assert second.at - first.at >= 0.99
