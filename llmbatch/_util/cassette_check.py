"""Is a vcrpy cassette open that would give concurrent requests each other's answers?"""

from __future__ import annotations

import sys
from typing import Any

import aiohttp

# Matchers of vcrpy that do not look at the body; any other one may.
_BODILESS = frozenset({"method", "uri", "scheme", "host", "port", "path", "query", "headers"})


def cassette_problem() -> str | None:
    """Return why the open cassette cannot replay a batch, and what to do; None if it can, or if none is open."""
    if "vcr" not in sys.modules:
        return None
    cassette = _open_cassette()
    matchers = [getattr(matcher, "__name__", "") for matcher in getattr(cassette, "_match_on", ())]
    if not matchers or not _BODILESS.issuperset(matchers):
        return None
    return (
        f"not sent: the open cassette matches requests on {', '.join(matchers)} only, so concurrent rows would get "
        'each other\'s answers. Add "body" to match_on (for pytest-recording in the fixture vcr_config), or use '
        "llmbatch.testing.cassette."
    )


def _open_cassette() -> Any:
    """Return the cassette whose stub vcrpy has put into aiohttp, None if there is none."""
    from vcr.cassette import Cassette  # noqa: PLC0415 - it is imported, and optional

    closure = getattr(aiohttp.ClientSession._request, "__closure__", None) or ()  # noqa: SLF001
    cells = (cell.cell_contents for cell in closure)
    return next((content for content in cells if isinstance(content, Cassette)), None)
