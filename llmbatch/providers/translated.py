"""Providers with batch APIs of their own, which LiteLLM translates from OpenAI's lines and back."""

from __future__ import annotations

from llmbatch.providers.openai import OpenAI

__all__ = ["XAI", "Mistral"]


class Mistral(OpenAI):
    """Mistral's batch jobs; they can be neither listed nor cancelled through LiteLLM."""

    name = "mistral"
    transport = "litellm"


class XAI(OpenAI):
    """xAI's batches, which have counters instead of a status and results instead of a file."""

    name = "xai"
    transport = "litellm"
