"""Packages that only some of the functions need."""

from __future__ import annotations

import importlib
from typing import Any

from llmbatch._util.base_errors import MissingExtraError


def extra(package: str, what: str, name: str) -> Any:
    """Return the package. Raises MissingExtraError that says what needs it, and which extra brings it."""
    try:
        return importlib.import_module(package)
    except ImportError as exc:
        raise MissingExtraError(f'{what} need the "{name}" extra: pip install "llmbatch[{name}]"') from exc
