"""Removes prompts, and every key that LiteLLM could have used, from error texts.

The one rule for rows, the log, exceptions and files: a run of 20 characters that a text shares with what was sent is
removed, and so is a shorter prompt of 6 characters or more as a whole. Whitespace is folded and escapes are undone
first. It takes time linear in the two texts, and comes before any cut that people would see.
"""

from __future__ import annotations

import contextlib
import html
import json
import os
import re
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from llmbatch import _litellm

# Characters of a text that are kept and searched.
_MAX_CHARACTERS = 20_000
# Shared runs of at least this many characters are removed, of prompts and of keys.
_PROMPT_RUN = 20
_KEY_RUN = 8
# Shorter secrets are removed as a whole from this length on.
_MIN_WHOLE = 6
# A value of a URL's query this long is more than a version or a flag.
_MIN_QUERY_SECRET = 16
_REMOVED, _KEY_REMOVED = "[removed]", "[key]"
_ESCAPE = re.compile(r"\\+(?:u([0-9a-fA-F]{4})|(.))", re.DOTALL)
_WHITE = dict.fromkeys("nrtfv", " ")
# Fields of the protocol: their values are common words of errors.
_STRUCTURE = frozenset({"role", "type", "id", "tool_call_id", "detail"})
_NO_CONNECTION = frozenset({"messages", "input", "tools", "functions", "response_format", "prompt_cache_key"})
_KEY_NAME = re.compile(r"(?i)(?:key|key_id|token|secret|passw(?:or)?d|credential|authorization|cookie)s?(?![a-z])")
_SCHEME = re.compile(r"(?i)^(?:bearer|basic|token)\s+")
_KEY = re.compile(
    r"(?i)\b(bearer|basic)\s+[a-z0-9._~+/=-]{8,}"
    r"|\b(?:(?:sk|pk|rk|gsk|xai|pplx|hf|gh[pousr]|github_pat)[-_]|AIza|AKIA)[A-Za-z0-9*._-]{8,}"
)


def redacted(text: str, request: Mapping[str, Any] | None = None) -> str:
    """Return the text in one line, without keys and without what `request` (LiteLLM's arguments) sent."""
    text = _folded(text[:_MAX_CHARACTERS])
    text = _without(text, list(_keys(request or {})), _KEY_RUN, _KEY_REMOVED)
    if request:
        text = _without(text, list(_texts([request.get("messages"), request.get("input")])), _PROMPT_RUN, _REMOVED)
    return _KEY.sub(_KEY_REMOVED, text)


def _without(text: str, secrets: list[str], run: int, mark: str) -> str:
    folded = [_folded(secret) for secret in secrets]
    if "\\" in text or "&" in text:
        bare = _bare(text)
        scrubbed = _scrubbed(bare, [*folded, *map(_bare, secrets)], run, mark)
        if scrubbed != bare:
            return scrubbed
    return _scrubbed(text, folded, run, mark)


def _folded(text: str) -> str:
    return " ".join(text.split())


def _bare(text: str) -> str:
    """Return the text without escapes of JSON, Python and HTML, however often applied; consistent, not exact."""

    def plain(escape: re.Match[str]) -> str:
        code, character = escape.groups()
        return chr(int(code, 16)) if code else _WHITE.get(character, character)

    text = _ESCAPE.sub(plain, html.unescape(text))
    return _folded(text.encode("utf-16", "surrogatepass").decode("utf-16", "replace"))


def _scrubbed(text: str, secrets: list[str], run: int, mark: str) -> str:
    """Return the text with a mark in place of each short secret and of each run of characters that it shares with one.

    Every run contains a shorter piece that begins at a multiple of `step` in its secret. Only those pieces are looked
    up, and whole runs are compared only around those that the text contains.
    """
    heads = {text[at : at + _MIN_WHOLE] for at in range(len(text) - _MIN_WHOLE + 1)}
    wholes = {secret for secret in secrets if _MIN_WHOLE <= len(secret) < run and secret[:_MIN_WHOLE] in heads}
    for secret in sorted(wholes, key=len, reverse=True):
        text = text.replace(secret, mark)
    step = run // 3 + 1
    piece = run - step + 1
    pieces = {text[at : at + piece] for at in range(len(text) - piece + 1)}
    shared = {
        secret[start : start + run]
        for secret in secrets
        for at in range(0, len(secret) - piece + 1, step)
        if secret[at : at + piece] in pieces
        for start in range(max(0, at - step + 1), at + 1)
    }
    kept, end = [], -1
    shown = 0
    for at in range(len(text) - run + 1 if shared else 0):
        if text[at : at + run] in shared:
            if at > end:
                kept += [text[shown:at], mark]
            shown = end = at + run
    return "".join([*kept, text[shown:]])


def _texts(value: Any) -> Iterator[str]:
    """Yield every text in what is sent, and those in texts that are JSON (a tool call's arguments)."""
    left = [value]
    while left:
        value = left.pop()
        if isinstance(value, str):
            yield value
            if value[:1] in {"{", "["}:
                with contextlib.suppress(ValueError, RecursionError):
                    left.append(json.loads(value))
        elif isinstance(value, Mapping):
            left += [part for name, part in value.items() if name not in _STRUCTURE]
        elif isinstance(value, list):
            left += value


def _keys(request: Mapping[str, Any]) -> Iterator[str]:
    """Yield every credential in the request's arguments, the environment and LiteLLM's own settings."""
    left = [(name, value) for name, value in request.items() if name not in _NO_CONNECTION]
    left += [("key", value) for value in _litellm.own_keys()]
    left += os.environ.items()
    while left:
        name, value = left.pop()
        if isinstance(value, Mapping):
            left += [(str(inner), item) for inner, item in value.items()]
        elif not isinstance(value, str):
            left += [("key", item) for item in [getattr(value, "api_key", None)] if isinstance(item, str)]
        elif value.startswith("{"):
            with contextlib.suppress(ValueError, RecursionError):
                left += json.loads(value).items()
        elif "://" in value:
            yield from _keys_in_url(value)
        elif _KEY_NAME.search(name) and not os.path.exists(value):  # noqa: PTH110 - of any text
            yield _SCHEME.sub("", value.strip())


def _keys_in_url(url: str) -> Iterator[str]:
    with contextlib.suppress(ValueError):
        parts = urlsplit(url)
        user, _, password = parts.netloc.rpartition("@")[0].partition(":")
        secret = password or user
        yield from (secret, unquote(secret))
        yield from (
            value for name, value in parse_qsl(parts.query) if _KEY_NAME.search(name) or len(value) >= _MIN_QUERY_SECRET
        )
