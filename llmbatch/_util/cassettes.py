"""What `testing` adds to vcrpy: an index, so that thousands of rows replay in linear time, and the removal of keys."""

from __future__ import annotations

import contextlib
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

REDACTED = "REDACTED"

# An allow-list: a header that nobody thought of cannot leak.
_REQUEST_HEADERS = re.compile(r"content-type|accept|anthropic-(version|beta)|openai-beta|x-initiator", re.IGNORECASE)
_RESPONSE_HEADERS = re.compile(
    r"content-type|location|retry-after(-ms)?|x-should-retry|(x-|anthropic-)?ratelimit-.*|x-request-id|request-id",
    re.IGNORECASE,
)
_SECRET_PARAMETER = re.compile(r"key|token|secret|signature|credential|password|^sig$", re.IGNORECASE)
_FIELDS = "api_?key|(access|refresh|id|session)_token|(client_)?secret|password|private_key|assertion|authorization"
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
_JOB_ID = re.compile(rb"\bjob-[0-9a-f]{16}\b")  # made up anew for each batch job
_LOOPBACK = {"localhost", "127.0.0.1", "0.0.0.0", "::1"}  # noqa: S104 - compared with, not bound to


def _without_keys(body: bytes) -> bytes:
    body = _SECRET_FIELD.sub(rb"\1" + REDACTED.encode(), body)
    body = _SECRET_FORM_FIELD.sub(rb"\1" + REDACTED.encode(), body)
    if b'"expires_at"' in body and b'"choices"' not in body:  # a chat answer's "token" is of its logprobs
        body = _TOKEN_FIELD.sub(rb"\1" + REDACTED.encode(), body)
    return KEY_SHAPE.sub(REDACTED.encode(), body)


def _plain_uri(uri: str) -> str:
    """The URI without keys in its query, and without the port of a loopback server."""
    parts = urlsplit(uri)
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
    """The request as it is stored and compared: no keys, harmless headers, a body in bytes."""
    request.uri = _plain_uri(request.uri)
    request.headers = {k: v for k, v in request.headers.items() if _REQUEST_HEADERS.fullmatch(k)}
    body = _without_keys(_body_bytes(request))
    request._was_file = request._was_iter = False  # noqa: SLF001 - the body is plain bytes from here on
    request.body = body
    return request


def clean_response(response: dict[str, Any]) -> dict[str, Any]:
    """The response as it is stored: no keys, and the headers that a client acts on."""
    response["headers"] = {k: v for k, v in response["headers"].items() if _RESPONSE_HEADERS.fullmatch(k)}
    if body := response["body"].get("string"):
        response["body"]["string"] = _without_keys(body if isinstance(body, bytes) else body.encode())
    return response


def request_key(request: Any) -> tuple[str, str, bytes]:
    """What a request is matched on: method, URI and body. A JSON body counts whatever the order of its keys.

    The boundary in a multipart body is random, so of an upload only method and URI count.
    """
    body = _body_bytes(request)
    if str(request.headers.get("content-type", "")).startswith("multipart/"):
        body = b""
    elif body.startswith(b"{"):
        with contextlib.suppress(ValueError):
            body = _JOB_ID.sub(b"job", json.dumps(json.loads(body), sort_keys=True).encode())
    return request.method, request.uri, body


def same_request(one: Any, other: Any) -> bool:
    """The matcher "request"."""
    return request_key(one) == request_key(other)


def _secrets_sent(headers: Any) -> list[bytes]:
    """Values of the headers that are not stored, to be removed should the provider repeat them in its answer."""
    values = [str(value).rpartition(" ")[2] for name, value in headers.items() if _SECRET_PARAMETER.search(name)]
    values += [str(headers[name]).rpartition(" ")[2] for name in ("authorization", "cookie") if name in headers]
    shortest = 8  # a shorter one may be a word of the answer
    return [value.encode() for value in values if len(value) >= shortest]


class IndexedCassette(Cassette):  # type: ignore[misc]
    """A cassette that finds a request by its key instead of comparing it with every recorded one."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._indices: defaultdict[tuple[str, str, bytes], list[int]] = defaultdict(list)
        super().__init__(*args, **kwargs)

    def append(self, request: Any, response: Any) -> None:
        """Store an interaction, filtered."""
        body = response["body"].get("string") or b""
        for secret in _secrets_sent(request.headers) if isinstance(body, bytes) else ():
            body = body.replace(secret, REDACTED.encode())
        before = len(self.data)
        super().append(request, {**response, "body": {**response["body"], "string": body}})
        for index in range(before, len(self.data)):
            self._indices[request_key(self.data[index][0])].append(index)

    def _responses(self, request: Any) -> Iterator[tuple[int, Any]]:
        if self._match_on != [same_request]:
            yield from super()._responses(request)
            return
        for index in self._indices[request_key(self._before_record_request(request))]:
            yield index, self.data[index][1]

    def find_requests_with_most_matches(self, request: Any) -> list[tuple[Any, list[str], list[tuple[str, str]]]]:
        """Those equal to the request: a miss need not compare and quote every recorded body."""
        return [(self.data[index][0], ["request"], []) for index, _ in self._responses(request)]


class BatchVCR(VCR):  # type: ignore[misc]
    """vcrpy with our filters, matcher and cassette as defaults."""

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
