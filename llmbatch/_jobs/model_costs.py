"""What goes to one model: its rows, tokens and files, and what they cost, live or as a job."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from llmbatch import _litellm
from llmbatch._jobs.input_files import Filling
from llmbatch._litellm.prices import batch_cost, count_tokens, live_cost, takes_flex
from llmbatch._request.plans import ChatPlan
from llmbatch._util.files import json_line
from llmbatch.providers.base import Payload, Provider

# Rows whose tokens are counted one by one (0.1 ms and more each); of the rest, every so manieth.
_COUNTED, _THEN_EVERY = 1000, 50


class Counts:
    """What goes to one model."""

    def __init__(self, target: _litellm.Target, provider: Provider | None) -> None:
        self.target, self.provider = target, provider
        self.sent = self.counted = self.images = self.files = 0
        self.limits: set[int | None] = set()
        self.answers: int | None = 0
        self._characters = self._counted_characters = self._counted_tokens = 0
        if provider is not None:
            self._filling = Filling(provider.max_rows, provider.max_bytes)

    def add(self, plan: ChatPlan, request: Mapping[str, Any], payload: Payload | None) -> None:
        self.sent += 1
        limit = answer_limit(plan)
        self.limits.add(limit)
        if limit is None or self.answers is None:
            self.answers = None
        else:
            self.answers += limit * (plan.params.get("n") or 1)
        if payload is not None:
            self.files += self._filling.begins_file(len(json_line(payload)))
        characters = len(json.dumps(request["messages"], ensure_ascii=False))
        self.images += any(_has_media(message) for message in request["messages"])
        self._characters += characters
        if self.sent <= _COUNTED or self.sent % _THEN_EVERY == 0:
            self.counted += 1
            self._counted_characters += characters
            self._counted_tokens += count_tokens(self.target, request)

    @property
    def prompt(self) -> int:
        """Tokens of all prompts."""
        scale = self._characters / self._counted_characters if self._counted_characters else 0.0
        return round(self._counted_tokens * scale)

    def live(self, answers: int | None, tier: str = "") -> float | None:
        """USD as live requests, with so many tokens answered."""
        return None if answers is None else live_cost(self.target, self.prompt, answers, tier)

    def flex(self, answers: int | None) -> float | None:
        """USD at the flex tier, likewise."""
        return self.live(answers, "_flex")

    def job(self, answers: int | None) -> float | None:
        """USD as a batch job, likewise."""
        if answers is None or self.provider is None:
            return None
        usage = {"prompt_tokens": self.prompt, "completion_tokens": answers, "total_tokens": self.prompt + answers}
        return batch_cost(self.target, usage)

    def missing(self, lane: str) -> str:
        """Why it cannot go by a lane; "" where it can."""
        if lane == "job" and self.provider is None:
            return f"{self.target.provider} does not support batch jobs through llmbatch"
        if lane == "flex" and not takes_flex(self.target):
            return f"no flex price is known for {self.target.model}"
        return ""


def answer_limit(plan: ChatPlan) -> int | None:
    """Tokens of an answer at most, None without a limit."""
    return plan.params.get("max_tokens") or plan.params.get("max_completion_tokens")


def _has_media(message: Mapping[str, Any]) -> bool:
    content = message.get("content")
    return isinstance(content, list) and any(part.get("type") != "text" for part in content)
