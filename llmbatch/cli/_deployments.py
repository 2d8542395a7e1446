"""The servers that the command line names: one address, several, or a file of deployments."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llmbatch._util.identity import is_connection


def addresses(api_bases: tuple[str, ...], path: Path | None, given: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments `api_base` or `deployments`; takes keys and headers out of `given` for several addresses.

    Raises ValueError for both, an address that is given twice, and a file that is not a list of deployments.
    """
    if path is not None:
        if api_bases:
            raise ValueError("--api-base and --deployments are both given. Put all addresses into the file")
        return {"deployments": _read(path)}
    if len(api_bases) == 1:
        return {"api_base": api_bases[0]}
    if twice := next((base for base in api_bases if api_bases.count(base) > 1), None):
        raise ValueError(f"--api-base {twice} is given twice. Name each server once")
    if not api_bases:
        return {}
    shared = {name: given.pop(name) for name in list(given) if is_connection(name)}
    return {"deployments": [{**shared, "api_base": base} for base in api_bases]}


def _read(path: Path) -> list[Any]:
    import yaml  # type: ignore[import-untyped]  # noqa: PLC0415 - comes with litellm; few runs need it

    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8"))  # JSON is YAML too
    except (yaml.YAMLError, UnicodeDecodeError) as exc:
        raise ValueError(f"{path} is not YAML or JSON ({type(exc).__name__}). Correct the file") from None
    if isinstance(found, Mapping):
        found = found.get("model_list", found.get("deployments"))
    if not isinstance(found, list):
        raise ValueError(f"{path} has no list of deployments. Write a list, or one under model_list:")  # noqa: TRY004 - a file's fault
    return found
