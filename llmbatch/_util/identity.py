"""The identity of a request: ids that are the same from run to run, and digests of the fields that decide them."""

from __future__ import annotations

import datetime as dt
import functools
import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

# Arguments that say how a provider is reached.
_CONNECTION = frozenset({
    "api_base", "api_key", "api_version", "azure_ad_token", "azure_ad_token_provider", "base_url", "client",
    "custom_llm_provider", "default_headers", "extra_headers", "headers", "organization",
})  # fmt: skip
_PRICE = re.compile(r"_cost_per_|_token_cost|^cost_per_|^(tiered|off_peak)_pricing$")
_CONNECTION_PREFIXES = ("aws_", "azure_", "vertex_")
# Arguments that do not change the answer: a resumed run may use another key, server, tier or timeout.
_IGNORED = frozenset({"metadata", "model", "service_tier", "timeout"})


_SHORT = 256  # characters of a string whose digest is kept: parameters repeat from row to row


def is_connection(name: str) -> bool:
    """Whether LiteLLM's argument of this name is an address, a key, or another means to reach one provider."""
    return name in _CONNECTION or name.startswith(_CONNECTION_PREFIXES)


def is_price(name: str) -> bool:
    """Whether LiteLLM's argument of this name is a price, which belongs to one model and not to a request."""
    return _PRICE.search(name) is not None


def fingerprints(request: Mapping[str, Any]) -> dict[str, str]:
    """Return a short digest of each field that the answer depends on, by the field's name.

    `request` is LiteLLM's arguments or a rendered payload's body. Keys, addresses and timeouts are left out.
    """
    provider = request.get("custom_llm_provider")
    fields = {"model": f"{provider}/{request['model']}" if provider else request["model"]}
    fields |= {k: v for k, v in request.items() if not (k in _IGNORED or k.startswith("litellm_") or is_connection(k))}
    return {name: _print(value) for name, value in fields.items()}


def _print(value: Any) -> str:
    kind = type(value)
    if (kind is str and len(value) < _SHORT) or kind is bool or ((kind is int or kind is float) and value):
        return _scalar_print(value)
    return hashlib.blake2b(_canonical(value), digest_size=8).hexdigest()


@functools.lru_cache(maxsize=4096, typed=True)
def _scalar_print(value: Any) -> str:
    return hashlib.blake2b(_canonical(value), digest_size=8).hexdigest()


def custom_id_for(request: Mapping[str, Any], occurrence: int = 1) -> str:
    """Return the request's id: `req-` and 16 hex digits, then `-2`, `-3`, … for duplicates."""
    return _custom_id(_digest(request), occurrence)


def first_id(request_id: str) -> str:
    """Return the id of the first of this id's duplicates."""
    return request_id[: len("req-") + 16]


def upgrade_id(request: Mapping[str, Any], prints: Mapping[str, str], untouched: Iterable[str]) -> str:
    """Return an id of a request that stays the same when an upgrade changes what is sent for it.

    `prints` are the request's fingerprints. `untouched` names the options that have their default: whether they are
    sent depends on the version of LiteLLM. How a pydantic class is rendered depends on the version of pydantic.
    """
    fields = {**prints, **dict.fromkeys(untouched, "default")}
    model = request.get("response_format")
    if isinstance(model, type) and hasattr(model, "model_json_schema"):
        fields["response_format"] = _upgrade_schema_print(model)
    return hashlib.blake2b(json.dumps(sorted(fields.items())).encode(), digest_size=8).hexdigest()


@functools.lru_cache(maxsize=64)
def _upgrade_schema_print(model: Any) -> str:
    """Return a digest of a class's schema without what versions of pydantic render differently."""
    from pydantic.json_schema import GenerateJsonSchema  # noqa: PLC0415 - only where a class was given

    class Schema(GenerateJsonSchema):
        def dataclass_schema(self, schema: Any) -> Any:
            made = super().dataclass_schema(schema)
            made.pop("description", None)  # a docstring, from pydantic 2.13 on
            return made

        def encode_default(self, dft: Any) -> Any:
            return repr(dft) if isinstance(dft, dt.timedelta | dt.date | dt.time) else super().encode_default(dft)

    return hashlib.blake2b(_canonical(model.model_json_schema(schema_generator=Schema)), digest_size=8).hexdigest()


class CustomIds:
    """Ids for the rows of one batch, in order. Keeps about 8 bytes per row in memory to number duplicates."""

    def __init__(self) -> None:
        self._seen = SeenIds()
        self._repeats: dict[bytes, int] = {}

    def __call__(self, request: Mapping[str, Any]) -> str:
        """Return the next row's id."""
        digest = _digest(request)
        if self._seen.add(digest):
            return _custom_id(digest, 1)
        self._repeats[digest] = occurrence = self._repeats.get(digest, 1) + 1
        return _custom_id(digest, occurrence)


class SeenIds:
    """A set of 8-byte digests that only grows: a million take 8 MB in 4,096 byte strings, and 100 MB in a `set`."""

    def __init__(self) -> None:
        self._buckets: dict[int, bytearray] = {}

    def add(self, item: bytes | str) -> bool:
        """Add a digest, or the digest of a string; return False if it was there already."""
        digest = item
        if isinstance(digest, str):
            digest = hashlib.blake2b(digest.encode("utf-8", "surrogatepass"), digest_size=8).digest()
        bucket, rest = self._buckets.setdefault(digest[0] << 4 | digest[1] >> 4, bytearray()), digest[1:]
        at = bucket.find(rest)
        while at >= 0 and at % len(rest):
            at = bucket.find(rest, at + 1)
        if at < 0:
            bucket += rest
        return at < 0


def _custom_id(digest: bytes, occurrence: int) -> str:
    return f"req-{digest.hex()}" + (f"-{occurrence}" if occurrence > 1 else "")


def _digest(request: Mapping[str, Any]) -> bytes:
    parts = sorted(fingerprints(request).items())
    return hashlib.blake2b(json.dumps(parts).encode(), digest_size=8).digest()


def _canonical(value: Any) -> bytes:
    return _encoder().encode(value).encode()


@functools.cache
def _encoder() -> json.JSONEncoder:
    return json.JSONEncoder(sort_keys=True, default=_stable)


def _stable(value: Any) -> Any:
    """Return a JSON value for an object that JSON has no form for: a pydantic class is its schema."""
    if isinstance(value, type) and hasattr(value, "model_json_schema"):
        return _schema(value)
    if isinstance(value, set | frozenset):
        return sorted(value)
    return f"{type(value).__module__}.{type(value).__qualname__}"


@functools.lru_cache(maxsize=64)
def _schema(model: Any) -> Any:
    return model.model_json_schema()
