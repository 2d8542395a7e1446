"""Optional packages, which some functions need."""

from __future__ import annotations

import importlib
from typing import Any

from llmbatch._util.base_errors import MissingExtraError


def extra(package: str, what: str, name: str) -> Any:
    """Import the package. Raises MissingExtraError that names what needs it and the extra that installs it."""
    try:
        return importlib.import_module(package)
    except ImportError as exc:
        raise MissingExtraError(f'{what} need the "{name}" extra: pip install "llmbatch[{name}]"') from exc
