"""The class and status that LiteLLM gives to what providers really answer, and the row that llmbatch makes of it.

The answers were recorded at the providers (shortened). The hold they guard: `_failures.classify` reads class, status,
body and response headers of LiteLLM's exceptions, and of the OpenAI SDK's in their chain.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from tests.server import Response
from tests.talk import batch, chats

if TYPE_CHECKING:
    from tests.server import Server

pytestmark = pytest.mark.contract


class Failure(NamedTuple):
    """What a provider answered, and what the row says of it."""

    model: str
    status: int
    body: Any
    kind: str
    words: str
    retryable: bool = False
    headers: dict[str, str] = {}  # noqa: RUF012 - nobody changes it


ANTHROPIC, AZURE, DEEPSEEK = "anthropic/claude-3-haiku-20240307", "azure/gpt-4o", "deepseek/deepseek-chat"
GEMINI, GROQ, OPENAI = "gemini/gemini-2.5-flash", "groq/llama-3.3-70b-versatile", "openai/gpt-4o-mini"
OPENROUTER, XAI = "openrouter/moonshotai/kimi-k2", "xai/grok-3"
RECORDED = {
    "OpenAI: key": Failure(OPENAI, 401, {"error": {
        "message": "Incorrect API key provided: invalid-*****2345. You can find your API key at https://x.y.",
        "type": "invalid_request_error", "param": None, "code": "invalid_api_key"}},
        "AuthenticationError", "Incorrect API key provided"),
    "OpenAI: value": Failure(OPENAI, 400, {"error": {
        "code": "unsupported_value", "message": "Unsupported value: 'messages[0].role' does not support 'system'.",
        "param": "messages[0].role", "type": "invalid_request_error"}},
        "BadRequestError", "does not support 'system'"),
    "OpenAI: quota": Failure(OPENAI, 429, {"error": {
        "code": "insufficient_quota", "message": "You exceeded your current quota, please check your plan and billing.",
        "param": None, "type": "insufficient_quota"}},
        "RateLimitError", "exceeded your current quota"),
    "OpenAI: jobs": Failure(OPENAI, 429, {"error": {
        "message": "This fine-tune request has been rate-limited.", "type": "invalid_request_error", "param": None,
        "code": "rate_limit_exceeded"}},
        "RateLimitError", "has been rate-limited", retryable=True, headers={"retry-after": "1"}),
    "Azure: key": Failure(AZURE, 401, {"error": {
        "code": "401", "message": "Access denied due to invalid subscription key or wrong API endpoint."}},
        "AuthenticationError", "Access denied"),
    "Azure: deployment": Failure(AZURE, 404, {"error": {
        "type": "invalid_request_error", "code": "DeploymentNotFound",
        "message": "The API deployment for this resource does not exist."}},
        "NotFoundError", "does not exist"),
    "Azure: size, as text": Failure(AZURE, 413, "Failed to buffer the request body: length limit exceeded",
        "APIError", "length limit exceeded"),
    "Anthropic: shape": Failure(ANTHROPIC, 400, {"type": "error", "error": {
        "type": "invalid_request_error", "message": "messages.0: Input does not match the expected shape."}},
        "BadRequestError", "does not match", headers={"x-should-retry": "false"}),
    "Anthropic: fault": Failure(ANTHROPIC, 500, {"type": "error", "error": {
        "type": "api_error", "message": "Internal server error"}, "request_id": "req_1"},
        "InternalServerError", "Internal server error", retryable=True),
    "Anthropic: overload": Failure(ANTHROPIC, 529, {"type": "error", "error": {
        "type": "overloaded_error", "message": "Overloaded"}},
        "InternalServerError", "Overloaded", retryable=True),
    "DeepSeek: key": Failure(DEEPSEEK, 401, {"error": {
        "message": "Authentication Fails, Your api key: ****-key is invalid", "type": "authentication_error",
        "param": None, "code": "invalid_request_error"}},
        "AuthenticationError or BadRequestError", "Authentication Fails"),  # the latter before 1.109
    "DeepSeek: length": Failure(DEEPSEEK, 400, {"error": {
        "message": "This model's maximum context length is 1048565 tokens. However, you requested 1250025 tokens.",
        "type": "invalid_request_error", "param": None, "code": "invalid_request_error"}},
        "ContextWindowExceededError", "maximum context length"),
    "Gemini: fault": Failure(GEMINI, 500, {"error": {
        "code": 500, "message": "An internal error has occurred.", "status": "INTERNAL"}},
        "InternalServerError", "internal error", retryable=True),
    "Gemini: quota by the minute": Failure(GEMINI, 429, {"error": {
        "code": 429, "message": "You exceeded your current quota, please check your plan.\nPlease retry in 0.9s.",
        "status": "RESOURCE_EXHAUSTED"}},
        "RateLimitError", "exceeded your current quota", retryable=True),
    "Groq: model": Failure(GROQ, 404, {"error": {
        "code": "model_not_found", "message": "The model `llama` does not exist or you do not have access to it.",
        "type": "invalid_request_error"}},
        "NotFoundError", "does not exist"),
    "Groq: tool": Failure(GROQ, 400, {"error": {
        "code": "tool_use_failed", "failed_generation": "{}", "message": "Tool call validation failed: no name",
        "type": "invalid_request_error"}},
        "BadRequestError", "Tool call validation failed"),
    "Mistral: key": Failure("mistral/mistral-small-latest", 401, {"detail": "Invalid API Key"},
        "AuthenticationError", "Invalid API Key"),
    "OpenRouter: upstream": Failure(OPENROUTER, 429, {"error": {
        "message": "Provider returned error", "code": 429, "metadata": {"raw": "temporarily rate-limited upstream"}}},
        "RateLimitError", "Provider returned error", retryable=True, headers={"retry-after": "1"}),
    "Cerebras: rate": Failure("cerebras/llama3.1-8b", 429, {
        "code": "request_quota_exceeded", "message": "Requests per second limit exceeded", "param": "quota",
        "type": "too_many_requests_error"},
        "RateLimitError", "Requests per second", retryable=True, headers={"retry-after-ms": "660"}),
    "xAI: full": Failure(XAI, 503, {
        "code": "The service is currently unavailable", "error": "Service temporarily unavailable."},
        "ServiceUnavailableError", "temporarily unavailable", retryable=True),
    "xAI: key": Failure(XAI, 400, {"code": "Client specified an invalid argument", "error": "Incorrect API key: xa*."},
        "BadRequestError", "Incorrect API key"),
}  # fmt: skip


@pytest.mark.parametrize("recorded", RECORDED.values(), ids=RECORDED)
def test_recorded_failure_keeps_class_status_and_words(server: Server, recorded: Failure) -> None:
    """Type, status and the provider's own words are in the row, and whether it would be sent again."""
    server.handler = lambda _: Response(recorded.status, recorded.headers, body=recorded.body)
    place = {"api_version": "2024-10-21"} if recorded.model == AZURE else {}
    # Gemini's and Anthropic's paths come after what is given, and the loopback server answers on any path.
    (row,) = batch(server.api_base, chats(1), model=recorded.model, retries=0, **place)
    told = row["error_details"]
    assert told["type"] in recorded.kind.split(" or "), row["error"]
    assert (told["status_code"], told["retryable"]) == (recorded.status, recorded.retryable), row["error"]
    assert recorded.words in row["error"]
