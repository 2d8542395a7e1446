"""What became of one request."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

from llmbatch._litellm import Answer
from llmbatch._request.failures import Failure
from llmbatch._rows.row import add_usage
from llmbatch._util.utc import utc_text


@dataclass(slots=True)
class Outcome:
    """What became of one request.

    Attributes:
        answer, failure: one of them, once it is over.
        attempts: how often it was sent.
        cost: USD (None: unknown).
        renewed: the 401 after which the credentials were renewed, once.
        uncertain: whether the provider may also have charged for an attempt whose answer was lost.
        elapsed: seconds of the last attempt, from its HTTP request on where that is known.
        waited: seconds before it, since `begun`.
        rows: how many rows the request is for.
        last_failure: the failure of its last attempt so far.
        outages: the outages of the server that it has met, by number.
        rejected: the last attempt's answer if it did not count as one (broken, empty, filtered).
        usage: the tokens of all such answers.
        rate_limited: whether the last attempt got a 429 that the limiter learnt from.
        deployment: name of the deployment that the last attempt was sent to, where there are several.
        detours: which deployments the request avoids for now, where there are several.
        custom_id: the id of the row that it is for.
        counted_attempts: how many of the attempts the log and the statistics know.
    """

    answer: Answer | None = None
    failure: Failure | None = None
    attempts: int = 0
    cost: float | None = 0.0
    renewed: Failure | None = None
    uncertain: bool = False
    elapsed: float | None = None
    waited: float | None = None
    begun: float = field(default_factory=time.monotonic)
    rows: int = 1
    last_failure: Failure | None = None
    outages: set[int] = field(default_factory=set)
    rejected: Answer | None = None
    usage: dict[str, Any] = field(default_factory=dict)
    rate_limited: bool = False
    deployment: str | None = None
    detours: Any = None
    custom_id: str = ""
    counted_attempts: int = 0

    def reject(self, answer: Answer, failure: Failure) -> None:
        """Keep an answer that does not count as one."""
        self.rejected, self.last_failure = answer, failure
        add_usage(self.usage, answer.body.get("usage"))

    def timed(self, sent_at: float | None) -> None:
        """Note that an attempt is over that was sent at this time, or never (None)."""
        now = time.monotonic()
        if sent_at is not None:
            self.elapsed, self.waited = now - sent_at, sent_at - self.begun
        elif self.elapsed is None:
            self.waited = now - self.begun

    @property
    def spent(self) -> dict[str, Any]:
        """What the row says of attempts, cost, times and deployment."""
        spent = {
            "attempts": self.attempts,
            "cost": self.cost,
            "elapsed": self.elapsed,
            "waited": self.waited,
            "started_at": utc_text(time.time() - time.monotonic() + self.begun),
        }
        return spent if self.deployment is None else {**spent, "deployment": self.deployment}
