"""Azure OpenAI: OpenAI's lines without the version in the path; the model is the deployment."""

from __future__ import annotations

from llmbatch.providers.openai import OpenAI

__all__ = ["Azure"]


class Azure(OpenAI):
    """Azure OpenAI batch deployments."""

    name = "azure"
    max_rows = 100_000
    transport = "azure"
    chat_url = "/chat/completions"
    embeddings_url = "/embeddings"
