"""The account that a plan's requests are sent by."""

from __future__ import annotations

import hashlib
from typing import Any
from weakref import WeakKeyDictionary

from llmbatch._limits.account import Account, account_at
from llmbatch._litellm.connection import effective_address_and_key, other_identity
from llmbatch._request.plans import ChatPlan, EmbeddingsPlan
from llmbatch._util.identity import is_connection


def account_of(plan: ChatPlan | EmbeddingsPlan) -> Account:
    """Return the account whose limits count: the same for a key from the environment and the same key passed."""
    address, key = effective_address_and_key(plan.target, plan.params)
    owner = getattr(plan.credentials, "account", None)
    return account_at(plan.target.provider, address, owner or key, other_identity(plan.params))


_route_keys: WeakKeyDictionary[ChatPlan | EmbeddingsPlan, Any] = WeakKeyDictionary()  # each row asks for its plan's


def route_key(plan: ChatPlan | EmbeddingsPlan) -> Any:
    """Return what two plans share if their requests reach the same server as the same user (for `dedupe`)."""
    key = _route_keys.get(plan)
    if key is None:
        key = _route_keys[plan] = _route_key(plan)
    return key


def _route_key(plan: ChatPlan | EmbeddingsPlan) -> Any:
    others = sorted((name, repr(value)) for name, value in plan.params.items() if _tells_apart(name))
    digest = hashlib.blake2b(repr(others).encode("utf-8", "surrogatepass"), digest_size=8).digest()
    target = plan.target
    names = tuple(one.deployment.name for one in plan.deployments)
    return account_of(plan), target.provider, target.name, target.prices, digest, names


def _tells_apart(name: str) -> bool:
    return is_connection(name) and name not in {"api_key", "api_base", "custom_llm_provider"}
