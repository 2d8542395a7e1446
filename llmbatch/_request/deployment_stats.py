"""What one deployment of a batch did: answers, latency, 429s and errors."""

from __future__ import annotations

from array import array
from collections import Counter
from statistics import median
from typing import Any

from llmbatch._request.failures import Failure


class DeploymentStats:
    """The attempts that one deployment got."""

    def __init__(self) -> None:
        self.answers = self.rate_limited = 0
        self.errors: Counter[str] = Counter()
        self._seconds = array("d")

    def answered(self, seconds: float | None) -> None:
        """Count an answer."""
        self.answers += 1
        if seconds is not None:
            self._seconds.append(seconds)

    def failed(self, failure: Failure) -> None:
        """Count a 429 or an error."""
        if failure.rate_limited:
            self.rate_limited += 1
        else:
            self.errors[str(failure.type)] += 1

    def as_dict(self) -> dict[str, Any]:
        """Return the numbers as JSON; `p50` is in seconds."""
        return {
            "answers": self.answers,
            "p50": round(median(self._seconds), 3) if self._seconds else None,
            "rate_limited": self.rate_limited,
            "errors": dict(self.errors.most_common()),
        }
