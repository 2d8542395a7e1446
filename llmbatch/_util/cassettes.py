"""vcrpy with an index, so that thousands of rows replay in linear time, and without credentials in the files."""

from __future__ import annotations

import contextlib
import contextvars
import functools
import json
import re
from collections import defaultdict
from collections.abc import Iterator
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from vcr import VCR
from vcr.cassette import Cassette
from vcr.util import read_body

from llmbatch._util.secret_values import remembered, secrets_in, without

REDACTED = "REDACTED"

# A placeholder such as "not-needed", which a prompt may contain too: then a replay with another one would miss.
_PLACEHOLDER = re.compile(r"[a-z]+(?:[-_][a-z]+)*")
_of_request: contextvars.ContextVar[set[str]] = contextvars.ContextVar("_of_request", default=set())  # noqa: B039 - never changed

# Only these are stored, so that no unknown header can leak a key.
_REQUEST_HEADERS = re.compile(r"content-type|accept|anthropic-(version|beta)|openai-beta|x-initiator", re.IGNORECASE)
_RESPONSE_HEADERS = re.compile(
    r"content-type|location|retry-after(-ms)?|x-should-retry|(x-|anthropic-)?ratelimit-.*|x-request-id|request-id",
    re.IGNORECASE,
)
_SECRET_PARAMETER = re.compile(r"key|token|secret|signature|credential|password|^sig$", re.IGNORECASE)
# `prompt_cache_key` and `max_tokens` are no credentials, nor is the "token" of an answer's logprobs.
_FIELDS = (
    r"(?:\w+[_-])?(?:api_?key|secret(?:_access_key)?|passw(?:or)?d|passphrase|credentials?)|(?:\w+_)?private_key"
    r"|\w+[_-]token|access_key(?:_id)?|assertion|authorization"
)
_SECRET_FIELD = re.compile(rf'("(?:{_FIELDS})"\s*:\s*")[^"\\]+(?=")'.encode(), re.IGNORECASE)
_SECRET_FORM_FIELD = re.compile(rf"((?:^|&)(?:token|{_FIELDS})=)[^&\s]+".encode(), re.IGNORECASE)
_TOKEN_FIELD = re.compile(rb'("token"\s*:\s*")[^"\\]+')
_KEY_SHAPES = (
    r"(?:sk|xai|gsk|pplx|csk|nvapi)[-_](?=[A-Za-z_-]*[0-9])[A-Za-z0-9_-]{16,}",
    r"gh[opusr]_[A-Za-z0-9]{16,}",
    r"github_pat_[A-Za-z0-9_]{16,}",
    r"hf_[A-Za-z0-9]{16,}",
    r"AIza[A-Za-z0-9_-]{30,}",
    r"(?:AKIA|ASIA)[A-Z0-9]{16}",
    r"eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}",
)
KEY_SHAPE = re.compile("|".join(rf"\b{shape}" for shape in _KEY_SHAPES).encode())
_JOB_ID = re.compile(rb"\bjob-[0-9a-f]{16}\b")  # a new one for each batch job
_LOOPBACK = {"localhost", "127.0.0.1", "0.0.0.0", "::1"}  # noqa: S104 - compared with, not bound to


def _without_keys(body: bytes, secrets: set[str]) -> bytes:
    body = without(body, secrets, REDACTED.encode())
    body = _SECRET_FIELD.sub(rb"\1" + REDACTED.encode(), body)
    body = _SECRET_FORM_FIELD.sub(rb"\1" + REDACTED.encode(), body)
    if b'"expires_at"' in body and b'"choices"' not in body:  # a chat answer's "token" is of its logprobs
        body = _TOKEN_FIELD.sub(rb"\1" + REDACTED.encode(), body)
    return KEY_SHAPE.sub(REDACTED.encode(), body)


def _plain_uri(uri: str, secrets: set[str]) -> str:
    """Return the URI without credentials, and without the port of a loopback server."""
    parts = urlsplit(without(uri.encode(), secrets, REDACTED.encode()).decode())
    netloc = "loopback" if parts.hostname in _LOOPBACK else parts.netloc.rpartition("@")[2]
    query = parts.query
    if _SECRET_PARAMETER.search(query):
        pairs = parse_qsl(query, keep_blank_values=True)
        query = urlencode([(k, REDACTED if _SECRET_PARAMETER.search(k) else v) for k, v in pairs])
    return KEY_SHAPE.sub(REDACTED.encode(), urlunsplit(parts._replace(netloc=netloc, query=query)).encode()).decode()


def _body_bytes(request: Any) -> bytes:
    body = read_body(request)
    if isinstance(body, bytes | bytearray):
        return bytes(body)
    if isinstance(body, str):
        return body.encode()
    return b"" if body is None else json.dumps(body, sort_keys=True, default=str).encode()


def clean_request(request: Any) -> Any:
    """Return the request as it is stored and compared: no credentials, harmless headers, a body in bytes."""
    secrets = {secret for secret in remembered() | _secrets_sent(request) if not _PLACEHOLDER.fullmatch(secret)}
    request.uri = _plain_uri(request.uri, secrets)
    request.headers = {k: v for k, v in request.headers.items() if _REQUEST_HEADERS.fullmatch(k)}
    body = _without_keys(_body_bytes(request), secrets)
    request._was_file = request._was_iter = False  # noqa: SLF001 - the body is plain bytes from here on
    request.body = body
    return request


def clean_response(response: dict[str, Any]) -> dict[str, Any]:
    """Return the response as it is stored: no credentials, and the headers that a client acts on."""
    response["headers"] = {k: v for k, v in response["headers"].items() if _RESPONSE_HEADERS.fullmatch(k)}
    if body := response["body"].get("string"):
        secrets = remembered() | _of_request.get()
        response["body"]["string"] = _without_keys(body if isinstance(body, bytes) else body.encode(), secrets)
    return response


def request_key(request: Any) -> tuple[str, str, bytes]:
    """Return what a request is matched on: method, URI and body. The order of the keys in a JSON body does not matter.

    The boundary in a multipart body is random, so an upload is matched on method and URI only.
    """
    body = _body_bytes(request)
    if str(request.headers.get("content-type", "")).startswith("multipart/"):
        body = b""
    elif body.startswith(b"{"):
        with contextlib.suppress(ValueError):
            body = _JOB_ID.sub(b"job", json.dumps(json.loads(body), sort_keys=True).encode())
    return request.method, request.uri, body


def same_request(one: Any, other: Any) -> bool:
    """Return whether two requests match: the matcher "request"."""
    return request_key(one) == request_key(other)


def _secrets_sent(request: Any) -> set[str]:
    """Return the credentials in a request's headers, query and body, which its answer may repeat."""
    secrets = set(secrets_in({str(name): str(value) for name, value in request.headers.items()}))
    secrets |= set(secrets_in(dict(parse_qsl(urlsplit(request.uri).query))))
    body = _body_bytes(request)
    if body.startswith(b"{"):
        with contextlib.suppress(ValueError, RecursionError):
            secrets |= set(secrets_in(json.loads(body)))
    return secrets - {REDACTED}


class IndexedCassette(Cassette):  # type: ignore[misc]
    """A cassette that looks a request up by its key instead of comparing it with every recorded one."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._indices: defaultdict[tuple[str, str, bytes], list[int]] = defaultdict(list)
        super().__init__(*args, **kwargs)

    def append(self, request: Any, response: Any) -> None:
        """Store an interaction, filtered."""
        before = len(self.data)
        token = _of_request.set(_secrets_sent(request))
        try:
            super().append(request, response)
        finally:
            _of_request.reset(token)
        for index in range(before, len(self.data)):
            self._indices[request_key(self.data[index][0])].append(index)

    def _responses(self, request: Any) -> Iterator[tuple[int, Any]]:
        if self._match_on != [same_request]:
            yield from super()._responses(request)
            return
        for index in self._indices[request_key(self._before_record_request(request))]:
            yield index, self.data[index][1]

    def find_requests_with_most_matches(self, request: Any) -> list[tuple[Any, list[str], list[tuple[str, str]]]]:
        """Return the equal requests only: vcrpy would compare and quote every recorded body."""
        return [(self.data[index][0], ["request"], []) for index, _ in self._responses(request)]


class BatchVCR(VCR):  # type: ignore[misc]
    """A `vcr.VCR` with our filters, matcher and cassette class as defaults."""

    def __init__(self, **options: Any) -> None:
        options.setdefault("record_mode", "none")
        options.setdefault("match_on", ("request",))
        options.setdefault("drop_unused_requests", options["record_mode"] == "all")
        options.setdefault("record_on_exception", False)
        options.setdefault("decode_compressed_response", True)
        for name, ours in (("before_record_request", clean_request), ("before_record_response", clean_response)):
            theirs = options.get(name) or ()
            options[name] = (*((theirs,) if callable(theirs) else theirs), ours)
        super().__init__(**options)
        self.register_matcher("request", same_request)

    def _use_cassette(self, with_current_defaults: bool = False, **kwargs: Any) -> Any:
        if with_current_defaults:
            return IndexedCassette.use(**self.get_merged_config(**kwargs))
        return IndexedCassette.use_arg_getter(functools.partial(self.get_merged_config, **kwargs))
