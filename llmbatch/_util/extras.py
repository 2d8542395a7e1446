"""Packages that only some of the functions need."""

from __future__ import annotations

import importlib
from typing import Any


def extra(package: str, what: str, name: str) -> Any:
    """The package. Raises ImportError that says what needs it, and which extra brings it."""
    try:
        return importlib.import_module(package)
    except ImportError as exc:
        raise ImportError(f'{what} need the "{name}" extra: pip install "llmbatch[{name}]"') from exc
