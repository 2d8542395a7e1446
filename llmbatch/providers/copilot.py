"""GitHub Copilot: an OpenAI-compatible server with tokens that expire; LiteLLM reaches it by its base URL.

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
_FIX = "Set GITHUB_TOKEN to the OAuth token (gho_... or ghu_...) that `gh auth token` or an editor's login gives"


def is_chosen(model: str | None, kwargs: Mapping[str, Any]) -> bool:
    """Whether these arguments are for Copilot: a `copilot/` model, or USE_COPILOT_CHAT=true and no other server."""
    if model is not None and str(model).startswith(PREFIX):
        return True
    if os.environ.get("USE_COPILOT_CHAT", "").strip().lower() not in {"1", "true", "yes", "on"}:
        return False
    elsewhere = any(kwargs.get(name) for name in ("api_base", "base_url", "custom_llm_provider", "api_key"))
    return not elsewhere and "/" not in default_model(model).removeprefix("openai/")


def prefixed(model: str) -> str:
    """Return the model as `copilot/…`."""
    return model if model.startswith(PREFIX) else PREFIX + model


def requests_per_minute() -> float:
    """Return COPILOT_REQUESTS_PER_MINUTE, 60 unless set. Raises ValueError unless it is a positive number."""
    given = os.environ.get("COPILOT_REQUESTS_PER_MINUTE") or "60"
    try:
        limit = float(given)
    except ValueError:
        limit = 0.0
    if not 0 < limit < math.inf:
        raise ValueError(f"COPILOT_REQUESTS_PER_MINUTE must be a positive number, not {given!r}. Unset it for 60")
    return limit


def plan(
    model: str | None,
    temperature: float | None,
    max_tokens: int | None,
    kwargs: Mapping[str, Any],
    tokens: dict[Any, CopilotToken],
) -> ChatPlan:
    """Return the plan for chats through Copilot, with its token; `tokens` caches those made before."""
    name = default_model(model).removeprefix(PREFIX).removeprefix("openai/")
    account = (kwargs.get("api_key"), kwargs.get("api_base"))
    token = tokens[account] = tokens.get(account) or CopilotToken(*account)
    given = {key: value for key, value in kwargs.items() if key not in {"api_key", "api_base"}}
    given["extra_headers"] = {**HEADERS, **(given.get("extra_headers") or {})}
    given |= {"custom_llm_provider": "openai", "api_base": token.api_base}
    made = plan_chat(name, temperature, max_tokens, **given)
    return replace(made, target=replace(made.target, model=PREFIX + name, provider=PROVIDER), credentials=token)


class CopilotToken:
    """A bearer token for Copilot: a `ghu_` token is exchanged for one of about 30 minutes, others are used directly.

    Raises CopilotTokenError at once for a token that cannot work. `arguments()` returns LiteLLM's arguments with a
    valid token; rows that need a new one wait for one exchange.
    """

    def __init__(self, token: str | None = None, api_base: str | None = None) -> None:
        self._github = (token or os.environ.get("GITHUB_TOKEN") or "").strip()
        if not self._github:
            raise CopilotTokenError(
                f"no GitHub token for Copilot. {_FIX}, or pass model='gpt-4o-mini' without USE_COPILOT_CHAT"
            )
        for prefix, kind in (("github_pat_", "fine-grained"), ("ghp_", "classic")):
            if self._github.startswith(prefix):
                raise CopilotTokenError(f"Copilot rejects {kind} personal access tokens ({prefix}...). {_FIX}")
        self._chosen_base = api_base or os.environ.get("GITHUB_COPILOT_API_BASE")
        self.api_base = (self._chosen_base or API_BASE).rstrip("/")
        exchanges = self._github.startswith("ghu_") or bool(os.environ.get("GITHUB_COPILOT_API_KEY_URL"))
        self._bearer = "" if exchanges else self._github
        self._valid_until = 0.0 if exchanges else math.inf
        self._exchanging = asyncio.Lock()

    @property
    def account(self) -> str:
        """The GitHub token, which names the account whatever bearer token goes with a request."""
        return self._github

    async def arguments(self) -> dict[str, Any]:
        """Return `api_key` and `api_base` for the next attempt. Raises the error of a failed exchange."""
        async with self._exchanging:
            if time.time() >= self._valid_until:
                await self._exchange()
        return {"api_key": self._bearer, "api_base": self.api_base}

    def renew(self, used: Mapping[str, Any]) -> None:
        """Get a new token, since Copilot rejected this one; a token used directly is tried through the exchange."""
        if used.get("api_key") == self._bearer:
            self._valid_until = 0.0

    async def _exchange(self) -> None:
        answer = await _litellm.get_json(
            os.environ.get("GITHUB_COPILOT_API_KEY_URL") or TOKEN_URL,
            {"Authorization": f"token {self._github}", "Accept": "application/json", **HEADERS},
        )
        self._bearer = answer["token"]
        self._valid_until = float(answer.get("expires_at") or time.time() + 1500) - REFRESH_BEFORE_SECONDS
        endpoint = (answer.get("endpoints") or {}).get("api")
        if endpoint and not self._chosen_base:
            self.api_base = endpoint.rstrip("/")
