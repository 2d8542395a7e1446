"""Which address and key LiteLLM uses for a request that names none: its own settings, the environment, its defaults."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import Any

from llmbatch._litellm import Target, load

# Providers whose arguments LiteLLM looks up in a way that may call the network.
_LOOKED_UP_ONLINE = {"github_copilot", "chatgpt"}
_SAME_SETTINGS = {"text-completion-openai": "openai", "azure_text": "azure", "cohere_chat": "cohere"}
_DEFAULT_ADDRESSES = {
    "openai": "https://api.openai.com/v1",
    "anthropic": "https://api.anthropic.com",
    "gemini": "https://generativelanguage.googleapis.com",
    "openrouter": "https://openrouter.ai/api/v1",
}
# In LiteLLM's order, where that is not simply PROVIDER_API_KEY.
_KEY_VARIABLES = {
    "azure": ("AZURE_OPENAI_API_KEY", "AZURE_API_KEY"),
    "gemini": ("GOOGLE_API_KEY", "GEMINI_API_KEY"),
    "cohere": ("COHERE_API_KEY", "CO_API_KEY"),
    "openrouter": ("OPENROUTER_API_KEY", "OR_API_KEY"),
    "huggingface": ("HUGGINGFACE_API_KEY", "HF_TOKEN"),
}
# Other arguments that name an account, and the variable that stands in for each.
_OTHER_IDENTITY = {
    "organization": "OPENAI_ORGANIZATION",
    "aws_access_key_id": "AWS_ACCESS_KEY_ID",
    "vertex_project": "VERTEXAI_PROJECT",
    "azure_ad_token": "AZURE_AD_TOKEN",
}


def effective_address_and_key(target: Target, arguments: Mapping[str, Any]) -> tuple[str | None, str | None]:
    """Return the address and the key that LiteLLM sends a request with; None for what only LiteLLM's provider knows."""
    litellm, provider = load(), _SAME_SETTINGS.get(target.provider, target.provider)
    address, given = target.api_base, arguments.get("api_key")
    key = given if isinstance(given, str) else None
    if target.provider not in _LOOKED_UP_ONLINE:
        try:
            _, _, found_key, found_address = litellm.get_llm_provider(
                target.name, custom_llm_provider=target.provider, api_base=address, api_key=key
            )
        except Exception:  # noqa: BLE001 - a server that LiteLLM cannot place is known by its address alone
            found_key = found_address = None
        address, key = address or found_address, key or found_key
    name = provider.upper().replace("-", "_")
    address = address or litellm.api_base or _variable(f"{name}_BASE_URL", f"{name}_API_BASE")
    key = key or litellm.api_key or getattr(litellm, f"{provider}_key", None)
    key = key or _variable(*_KEY_VARIABLES.get(provider, (f"{name}_API_KEY",)))
    return address or _DEFAULT_ADDRESSES.get(provider), key


def other_identity(arguments: Mapping[str, Any]) -> Iterable[tuple[str, str]]:
    """Yield the names and values of further arguments that name an account: an organization, a project."""
    for name, variable in _OTHER_IDENTITY.items():
        if value := arguments.get(name) or os.environ.get(variable):
            yield name, str(value)


def _variable(*names: str) -> str | None:
    return next((value for name in names if (value := os.environ.get(name))), None)
