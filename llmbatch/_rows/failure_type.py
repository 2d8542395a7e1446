"""Types of failed rows: the one list that code, rows and documentation share."""

from __future__ import annotations

from enum import StrEnum
from typing import Self


class FailureType(StrEnum):
    """Type of a failed row, in `error_details["type"]`.

    Each member has a `meaning` (what happened) and an `action` (whether llmbatch retried it, and what to do).
    A type that is not listed here is the provider's own error code in the line of a batch job, or the name of a
    Python exception that nobody foresaw.
    """

    meaning: str
    action: str

    def __new__(cls, value: str, meaning: str, action: str) -> Self:
        member = str.__new__(cls, value)
        member._value_ = value
        member.meaning, member.action = meaning, action
        return member

    # The provider's answers, as LiteLLM names them.
    RATE_LIMIT = (
        "RateLimitError",
        "429: rate-limited for an hour, the quota is used up, or the request is too large for the limit",
        "Retried until the limit allows it; an exhausted quota ends the batch at once. Raise the quota, or run again.",
    )
    AUTHENTICATION = (
        "AuthenticationError",
        "401: the API key is missing, wrong or expired",
        "Not retried; other rows are not sent. Check the API key.",
    )
    PERMISSION_DENIED = (
        "PermissionDeniedError",
        "403: the key may not do this, or the provider rejects the content of this row",
        "Not retried. The message has the provider's reason.",
    )
    NOT_FOUND = (
        "NotFoundError",
        "404: the model or the address does not exist, or no server for the model takes such a request",
        "Not retried. Check the model's name and api_base.",
    )
    BAD_REQUEST = (
        "BadRequestError",
        "400, 422: the provider rejects this request",
        "Not retried. Fix the row; the message has the provider's reason.",
    )
    CONTEXT_WINDOW_EXCEEDED = (
        "ContextWindowExceededError",
        "the prompt is too long for the model",
        "Not retried. Shorten the prompt, or use a model with a larger context.",
    )
    CONTENT_POLICY_VIOLATION = (
        "ContentPolicyViolationError",
        "the provider's content filter rejects the prompt",
        "Not retried. Change the prompt.",
    )
    UNPROCESSABLE_ENTITY = (
        "UnprocessableEntityError",
        "422: the provider rejects this request",
        "Not retried. Fix the row; the message has the provider's reason.",
    )
    INTERNAL_SERVER = (
        "InternalServerError",
        "5xx: the provider failed",
        "Retried `retries` times. Run again later.",
    )
    SERVICE_UNAVAILABLE = (
        "ServiceUnavailableError",
        "503: the provider is overloaded or starting",
        "Retried `retries` times; a server that loads its model is waited for (`server_wait`). Run again later.",
    )
    BAD_GATEWAY = ("BadGatewayError", "502: a gateway got no answer", "Retried `retries` times. Run again later.")
    API = (
        "APIError",
        "another error status of the provider",
        "Retried if the status says that it may pass. The message has the provider's reason.",
    )
    HTTP_STATUS = (
        "HTTPStatusError",
        "another error status, which LiteLLM has no name for",
        "Retried if the status says that it may pass.",
    )

    # The way to the provider and back.
    CONNECTION = (
        "ConnectionError",
        "no connection, or one that was cut before the answer was complete",
        "Retried `retries` times; a server that goes away is waited for (`server_wait`). Check api_base.",
    )
    CERTIFICATE = (
        "CertificateError",
        "the server's TLS certificate is not trusted",
        "Not retried; other rows are not sent. Set SSL_CERT_FILE to the file of your CA's certificates.",
    )
    PROXY = (
        "ProxyError",
        "the proxy of the environment cannot be used: it wants a password, or it is a SOCKS proxy",
        "Not retried; other rows are not sent. Correct HTTPS_PROXY (or HTTP_PROXY, ALL_PROXY).",
    )
    TIMEOUT = ("Timeout", "no answer within `timeout` seconds", "Retried `retries` times. Raise timeout.")
    TOO_MANY_REDIRECTS = (
        "TooManyRedirects",
        "the address redirects in a circle",
        "Not retried; other rows are not sent. Check api_base.",
    )
    REDIRECTED_ELSEWHERE = (
        "RedirectedElsewhere",
        "the server redirects to another host, which is sent neither the key nor the prompt",
        "Not retried; other rows are not sent. Set api_base to the new address if you trust it.",
    )
    STREAM = (
        "StreamError",
        "the provider reported an error inside a stream that had begun",
        "Retried if the error may pass.",
    )
    UNPARSABLE_ANSWER = (
        "UnparsableAnswer",
        "the answer is not what an LLM provider sends (a web page, broken JSON)",
        "Retried `retries` times. Check api_base.",
    )
    ANSWER_TOO_LARGE = (
        "AnswerTooLarge",
        "the answer is longer than 64 MB, or its headers are larger than 256 kB",
        "Not retried, since the answer may have been paid for.",
    )

    # The answer itself.
    EMPTY_ANSWER = (
        "EmptyAnswer",
        "the answer holds no text, tool call, refusal or reasoning, or no vector",
        "Retried `retries` times. Raise max_tokens, or change the prompt.",
    )
    BROKEN_ANSWER = (
        "BrokenAnswer",
        "the provider failed while it answered (finish reason `error`, a malformed tool call)",
        "Retried `retries` times. The row keeps the text.",
    )
    CONTENT_FILTERED = (
        "ContentFiltered",
        "the provider's content filter withheld or cut the answer",
        "Not retried. Change the prompt.",
    )
    AMBIGUOUS_ANSWER = (
        "AmbiguousAnswer",
        "the answer does not say which of its vectors belongs to the text",
        "Sent again one text at a time; not retried then. Check the server.",
    )
    WRONG_DIMENSIONS = (
        "WrongDimensions",
        "the vector has another length than `dimensions`, which the server ignored",
        "Not retried. Leave dimensions out.",
    )
    VALIDATION = (
        "ValidationError",
        "the answer does not match `response_format`, or `validate` rejects it",
        "Re-asked `reask` times. The row keeps the answer.",
    )
    REFUSED = (
        "Refused",
        "the model declines to answer in the shape of `response_format`",
        "Not retried. The message is the model's refusal.",
    )

    # llmbatch did not send the request, or stopped waiting for it.
    INVALID_ROW = ("InvalidRow", "the row cannot be sent as it is", "Not sent. Fix the row.")
    BUDGET_EXCEEDED = (
        "BudgetExceeded",
        "the request may cost more than is left of `max_cost`",
        "Not sent. Raise max_cost, or run again with the same checkpoint.",
    )
    DEADLINE_EXCEEDED = (
        "DeadlineExceeded",
        "the row was not done within `deadline` seconds",
        "Run again with the same checkpoint.",
    )
    NOT_SENT = (
        "NotSent",
        "earlier rows failed for a reason that affects every row, which the message names",
        "Not sent. Fix the reason, then run again.",
    )
    CANCELLED = ("Cancelled", "the batch was interrupted before the row was done", "Run again.")
    CHECKPOINT = ("CheckpointError", "the checkpoint cannot be written", "Not sent. Free disk space, then run again.")
    CASSETTE_MISS = (
        "CassetteMiss",
        "the cassette holds no answer to this request",
        "Not sent. Record the cassette anew.",
    )
    PROCESS_DIED = ("ProcessDied", "the worker process that sent the request ended", "Retried `retries` times.")

    # Batch jobs.
    BATCH_REFUSED = ("BatchRefused", "the provider rejected the input file", "Not run. Fix what the message names.")
    BATCH_EXPIRED = ("BatchExpired", "the job's time ended before this request", "Not run. Run again.")
    BATCH_CANCELLED = ("BatchCancelled", "the job was cancelled before this request", "Not run. Run again.")
    MISSING_RESULT = ("MissingResult", "the provider's files hold no result for this request", "Run again.")
    DUPLICATE_RESULT = ("DuplicateResult", "the provider's files hold two different answers", "Run again.")
    UNPARSABLE_RESULT = (
        "UnparsableResult",
        "the provider's line for this request cannot be read",
        "Run again; what the provider charged is unknown.",
    )
    REQUEST = ("RequestError", "the provider's line reports an error without a status or a code", "Run again.")


def failure_types_table() -> str:
    """Return the table of failure types in Markdown, for the README."""
    rows = [f"| `{kind.value}` | {kind.meaning} | {kind.action} |" for kind in FailureType]
    return "\n".join(['| `error_details["type"]` | what happened | retried? what to do |', "|---|---|---|", *rows])
