"""GitHub Copilot: an OpenAI-compatible server that LiteLLM reaches by its base URL, with tokens that expire.

Environment: GITHUB_TOKEN; USE_COPILOT_CHAT=true routes the plain functions here; COPILOT_REQUESTS_PER_MINUTE (60);
GITHUB_COPILOT_API_BASE and GITHUB_COPILOT_API_KEY_URL (LiteLLM's names) override the endpoints.
"""

from __future__ import annotations

import asyncio
import math
import os
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from llmbatch import _litellm
from llmbatch._request.plans import ChatPlan, default_model, plan_chat
from llmbatch.errors import CopilotTokenError

PROVIDER = "github_copilot"
PREFIX = "copilot/"
HEADERS = {
    "Copilot-Integration-Id": "vscode-chat",
    "Editor-Version": "vscode/1.104.1",
    "Editor-Plugin-Version": "copilot-chat/0.31.0",
    "X-Initiator": "user",
}
API_BASE = "https://api.githubcopilot.com"
TOKEN_URL = "https://api.github.com/copilot_internal/v2/token"  # noqa: S105 - an address
REFRESH_BEFORE_SECONDS = 120.0
_HOW = "set GITHUB_TOKEN to the OAuth token (gho_... or ghu_...) that `gh auth token` or an editor's login gives"


def asked_for(model: str | None, kwargs: Mapping[str, Any]) -> bool:
    """Whether these arguments mean Copilot: a `copilot/` model, or USE_COPILOT_CHAT=true and no other server named."""
    if model is not None and str(model).startswith(PREFIX):
        return True
    if os.environ.get("USE_COPILOT_CHAT", "").strip().lower() not in {"1", "true", "yes", "on"}:
        return False
    named = any(kwargs.get(name) for name in ("api_base", "base_url", "custom_llm_provider", "api_key"))
    return not named and "/" not in default_model(model).removeprefix("openai/")


def named(model: str) -> str:
    """The model as `copilot/…`."""
    return model if model.startswith(PREFIX) else PREFIX + model


def requests_per_minute() -> float:
    """COPILOT_REQUESTS_PER_MINUTE, 60 unless set. Raises ValueError for what is no positive number."""
    given = os.environ.get("COPILOT_REQUESTS_PER_MINUTE") or "60"
    try:
        limit = float(given)
    except ValueError:
        limit = 0.0
    if not 0 < limit < math.inf:
        raise ValueError(f"COPILOT_REQUESTS_PER_MINUTE must be a positive number, not {given!r}; unset it for 60")
    return limit


def plan(
    model: str | None,
    temperature: float | None,
    max_tokens: int | None,
    kwargs: Mapping[str, Any],
    tokens: dict[Any, CopilotToken],
) -> ChatPlan:
    """The plan for chats through Copilot, with the token that goes with its requests; `tokens`: those made before."""
    name = default_model(model).removeprefix(PREFIX).removeprefix("openai/")
    place = (kwargs.get("api_key"), kwargs.get("api_base"))
    token = tokens[place] = tokens.get(place) or CopilotToken(*place)
    given = {key: value for key, value in kwargs.items() if key not in {"api_key", "api_base"}}
    given["extra_headers"] = {**HEADERS, **(given.get("extra_headers") or {})}
    given |= {"custom_llm_provider": "openai", "api_base": token.api_base}
    made = plan_chat(name, temperature, max_tokens, **given)
    return replace(made, target=replace(made.target, model=PREFIX + name, provider=PROVIDER), credentials=token)


class CopilotToken:
    """The bearer token for Copilot: a `ghu_` token is exchanged for one of some 30 minutes, others are used directly.

    Raises CopilotTokenError at once for a token that cannot work. `arguments()` gives LiteLLM's arguments with a token
    that is still good; many rows that need a new one wait for one exchange.
    """

    def __init__(self, token: str | None = None, api_base: str | None = None) -> None:
        self._github = (token or os.environ.get("GITHUB_TOKEN") or "").strip()
        if not self._github:
            raise CopilotTokenError(
                f"no GitHub token for Copilot; {_HOW}, or pass model='gpt-4o-mini' without USE_COPILOT_CHAT"
            )
        for prefix, kind in (("github_pat_", "fine-grained"), ("ghp_", "classic")):
            if self._github.startswith(prefix):
                raise CopilotTokenError(f"Copilot refuses {kind} personal access tokens ({prefix}...); {_HOW}")
        self._chosen_base = api_base or os.environ.get("GITHUB_COPILOT_API_BASE")
        self.api_base = (self._chosen_base or API_BASE).rstrip("/")
        exchanges = self._github.startswith("ghu_") or bool(os.environ.get("GITHUB_COPILOT_API_KEY_URL"))
        self._bearer = "" if exchanges else self._github
        self._good_until = 0.0 if exchanges else math.inf
        self._exchanging = asyncio.Lock()

    @property
    def account(self) -> str:
        """The GitHub token, which names the account whatever bearer token goes with a request."""
        return self._github

    async def arguments(self) -> dict[str, Any]:
        """`api_key` and `api_base` for the next attempt. Raises what the exchange fails with."""
        async with self._exchanging:
            if time.time() >= self._good_until:
                await self._exchange()
        return {"api_key": self._bearer, "api_base": self.api_base}

    def renew(self, used: Mapping[str, Any]) -> None:
        """Copilot refused this token; a token used directly is tried through the exchange."""
        if used.get("api_key") == self._bearer:
            self._good_until = 0.0

    async def _exchange(self) -> None:
        answer = await _litellm.get_json(
            os.environ.get("GITHUB_COPILOT_API_KEY_URL") or TOKEN_URL,
            {"Authorization": f"token {self._github}", "Accept": "application/json", **HEADERS},
        )
        self._bearer = answer["token"]
        self._good_until = float(answer.get("expires_at") or time.time() + 1500) - REFRESH_BEFORE_SECONDS
        endpoint = (answer.get("endpoints") or {}).get("api")
        if endpoint and not self._chosen_base:
            self.api_base = endpoint.rstrip("/")
