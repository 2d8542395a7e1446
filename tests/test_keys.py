"""No key, or nobody there: the row says which variable to set, and which address was tried."""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING, Any

import pytest

import llmbatch
from tests.server import Response
from tests.talk import batch, chats, place

if TYPE_CHECKING:
    from tests.server import Server

REFUSED = Response(401, body={"error": {"message": "Invalid API Key", "code": "invalid_api_key"}})


@pytest.fixture(autouse=True)
def _no_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.endswith(("_API_KEY", "_BASE_URL", "_API_BASE"))]:
        monkeypatch.delenv(name)


@pytest.mark.parametrize(
    ("model", "variable"),
    [
        ("gpt-4o-mini", "OPENAI_API_KEY"),
        ("gemini/gemini-2.0-flash", "GEMINI_API_KEY"),
        ("anthropic/claude-3-5-haiku-latest", "ANTHROPIC_API_KEY"),
        ("perplexity/sonar", "PERPLEXITY_API_KEY"),
        ("fireworks_ai/some-model", "FIREWORKS_API_KEY"),
    ],
)
def test_a_missing_key_is_named_before_anything_is_sent(model: str, variable: str) -> None:
    """Whatever LiteLLM or the provider's SDK calls it, it is an AuthenticationError, said once and not tried again."""
    rows = llmbatch.create_chat_completions_batch(chats(20), model, progress=False)
    assert len(rows.failed) == 20
    assert rows[0]["error"].startswith("AuthenticationError: ")
    assert rows[0]["error"].count(variable) == 1
    assert not rows[0]["error_details"]["retryable"]
    assert rows[0]["attempts"] == 1
    assert "NotSent" in rows[-1]["error"]
    assert "Check the API" in rows[-1]["error"]


def test_embeddings_without_a_key_say_the_same() -> None:
    """The SDK's own complaint, classified alike."""
    (row,) = llmbatch.create_embeddings_batch(["a"], "text-embedding-3-small", progress=False)
    assert row["error"].startswith("AuthenticationError: ")
    assert "OPENAI_API_KEY" in row["error"]


def test_a_provider_that_refuses_a_request_without_a_key(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where LiteLLM sends it all the same, the refusal's row says which variable is not set; a key given is not it."""
    monkeypatch.setenv("GROQ_API_BASE", server.api_base)
    server.handler = lambda request: REFUSED
    for key, told in ((None, True), ("gsk-wrong-0123456789", False)):
        (row,) = llmbatch.create_chat_completions_batch(chats(1), "groq/llama-3.1-8b-instant", api_key=key)
        assert row["error"].startswith("AuthenticationError: ")
        assert "Invalid API Key" in row["error"]
        assert ("not set: GROQ_API_KEY" in row["error"]) is told


def test_a_server_of_ones_own_needs_no_key(server: Server) -> None:
    """Nothing is refused here for want of one."""
    rows = llmbatch.create_chat_completions_batch(chats(2), "hosted_vllm/m", api_base=server.api_base)
    assert not rows.failed


@pytest.mark.parametrize("route", ["openai", "hosted_vllm"])
def test_the_address_that_was_tried_is_named(server: Server, route: str) -> None:
    """Host and port, whether nobody is there or the line goes dead, by the SDK's route and by LiteLLM's own."""
    server.handler = lambda request: Response(reset=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        nobody = f"127.0.0.1:{free.getsockname()[1]}"
    for address in (nobody, server.url.removeprefix("http://")):
        (row,) = batch(f"http://{address}/v1", chats(1), model=f"{route}/m", retries=0)
        assert row["error"].startswith("ConnectionError: ")
        assert row["error"].count(address) == 1
        assert "SSLContext" not in row["error"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"api_key": "sk-secret\n"}, "api_key contains a line break"),
        ({"api_key": "sk-secret\x00"}, "api_key contains a control character"),
        ({"api_key": "geheimer-schlüssel"}, "api_key contains a character outside ASCII"),
        ({"api_base": "http://user:secret@127.0.0.1:9/v1"}, "api_base contains a user name or password"),
        ({"extra_headers": {"x-team": "secret\r\n"}}, "the value of 'x-team' contains a line break"),
    ],
)
def test_key_or_header_that_cannot_be_sent_raises(server: Server, options: dict[str, Any], message: str) -> None:
    """Before anything is sent, without the value; a request of its own that has it becomes a failed row."""
    with pytest.raises(ValueError, match=message) as raised:
        llmbatch.create_chat_completions_batch(chats(2), **{**place(server.api_base), **options})
    assert "secret" not in str(raised.value)
    assert "schl" not in str(raised.value)
    bad, good = llmbatch.create_chat_completions_batch([{"prompt": "a", **options}, "b"], **place(server.api_base))
    assert bad["error_details"]["type"] == "InvalidRow"
    assert message in bad["error"]
    assert "error" not in good
    assert len(server.requests) == 1


def test_key_of_environment_with_line_break_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a key is that was read from a file."""
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret\n")
    with pytest.raises(ValueError, match="the key of openai in the environment"):
        llmbatch.create_chat_completions_batch(chats(1), "gpt-4o-mini", progress=False)
