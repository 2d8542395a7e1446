"""Credentials among the arguments of calls, to keep their values out of cassettes."""

from __future__ import annotations

import contextlib
import json
import os
import re
import sys
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import quote, urlsplit

SECRET_NAME = re.compile(
    r"(?i)(?:key|key_?id|token|secret|passw(?:or)?d|passphrase|credential|authorization|assertion|cookie)s?$"
    r"|^sig$|^auth$"
)
_NO_SECRETS = frozenset({"messages", "input", "tools", "functions", "response_format", "prompt_cache_key"})
_SCHEME = re.compile(r"(?i)^(?:bearer|basic|token)\s+")
_SHORTEST = 8  # characters; a shorter value may be any text

_remembered = set[str]()


def remember(arguments: Mapping[str, Any]) -> None:
    """Remember the credentials among a call's arguments, where a cassette may record them."""
    if "vcr" in sys.modules:
        _remembered.update(secrets_in(arguments))


def remembered() -> set[str]:
    """Return the credentials of the calls so far, and those of the environment."""
    return _remembered | set(secrets_in(os.environ))


def secrets_in(arguments: Mapping[str, Any]) -> Iterator[str]:
    """Yield the values whose names say that they are credentials, at any depth, without `Bearer` and the like."""
    left = [(name, value) for name, value in arguments.items() if name not in _NO_SECRETS]
    while left:
        name, value = left.pop()
        if isinstance(value, Mapping):
            left += [(str(inner), item) for inner, item in value.items()]
        elif isinstance(value, list | tuple):
            left += [(name, item) for item in value]
        elif isinstance(value, str) and value.startswith("{"):
            with contextlib.suppress(ValueError, RecursionError):
                left += json.loads(value).items()
        elif isinstance(value, str) and "://" in value:
            with contextlib.suppress(ValueError):
                left.append(("password", urlsplit(value).password or ""))
        elif isinstance(value, str) and SECRET_NAME.search(name):
            secret = _SCHEME.sub("", value.strip())
            if len(secret) >= _SHORTEST:
                yield secret


def without(text: bytes, secrets: set[str], mark: bytes) -> bytes:
    """Return the text with a mark in the place of each secret, also where JSON or a URL has escaped it."""
    for secret in sorted(secrets, key=len, reverse=True):
        for form in {secret, json.dumps(secret)[1:-1], quote(secret, safe="")}:
            text = text.replace(form.encode("utf-8", "surrogatepass"), mark)
    return text
