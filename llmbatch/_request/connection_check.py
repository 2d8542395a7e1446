"""Addresses, keys and headers that no HTTP client can send, found before anything is sent."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from llmbatch._litellm import Target
from llmbatch._litellm.connection import effective_address_and_key


def check_connection(target: Target, arguments: Mapping[str, Any]) -> None:
    """Check the address, the key and the headers of a request. Raises ValueError without quoting any of them."""
    address, key = effective_address_and_key(target, arguments)
    if address is not None and "@" in _network_location(address):
        raise ValueError(
            "api_base contains a user name or password (user:password@host). Leave them out, and pass the key as "
            "api_key=, or the whole header as extra_headers="
        )
    if key is not None and (what := _unsendable(key)):
        passed = arguments.get("api_key") == key
        source = "api_key" if passed else f"the key of {target.provider} in the environment or in LiteLLM's settings"
        raise ValueError(f"{source} contains {what}, which an HTTP header cannot carry. {_FIXES[what]}")
    for option in ("extra_headers", "headers"):
        given = arguments.get(option)
        for name, value in given.items() if isinstance(given, Mapping) else ():
            if isinstance(value, str) and (what := _control_character(value)):
                raise ValueError(f"{option}: the value of {name!r} contains {what}. {_FIXES[what]}")


_LINE_BREAK, _CONTROL, _NOT_ASCII = "a line break", "a control character", "a character outside ASCII"
_FIXES = {
    _LINE_BREAK: "Remove it, as .strip() does for a value read from a file",
    _CONTROL: "Check how it was read",
    _NOT_ASCII: "Check that it was copied whole and from the right place",
}


def _unsendable(key: str) -> str | None:
    """Return what in a key cannot be sent, None if all of it can."""
    return _control_character(key) or (None if key.isascii() else _NOT_ASCII)


def _control_character(value: str) -> str | None:
    if not {"\n", "\r"}.isdisjoint(value):
        return _LINE_BREAK
    return _CONTROL if re.search(r"[\x00-\x08\x0b-\x1f\x7f]", value) else None


def _network_location(address: str) -> str:
    try:
        return urlsplit(address).netloc
    except ValueError:
        return ""
