"""A provider's files and batches. Each operation is one request, without retries; batches are plain dicts.

The OpenAI SDK is used for OpenAI, compatible servers and Azure: LiteLLM validates responses so strictly that a batch's
id is lost if a server has a status of its own. LiteLLM is used for providers whose API it translates (Mistral, xAI).
"""

from __future__ import annotations

import asyncio
import math
import os
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from llmbatch._litellm import Target, load
from llmbatch.errors import BatchNotSupportedError

_SECONDS = 600.0
_AZURE_VERSION = "2024-10-21"
# The fields of batches and files that are used, besides times.
_TYPES: dict[str, type] = {
    **dict.fromkeys(("id", "status", "filename", "endpoint", "input_file_id", "output_file_id", "error_file_id"), str),
    **dict.fromkeys(("metadata", "request_counts"), dict),
}


@dataclass(frozen=True)
class Access:
    """The caller's options for reaching the provider, by LiteLLM's names; the others come from the environment."""

    api_key: str | None = field(default=None, repr=False)
    api_version: str | None = None
    organization: str | None = None
    azure_ad_token: str | None = field(default=None, repr=False)
    extra_headers: Mapping[str, str] | None = field(default=None, repr=False)


def open_files(transport: str, target: Target, access: Access) -> Files:
    """Return the files and batches of the target's account. Raises ValueError if there is no key."""
    if transport == "litellm":
        return _Translated(target, access)
    load()
    import openai  # noqa: PLC0415 - comes with litellm

    given: dict[str, Any] = {"default_headers": access.extra_headers, "max_retries": 0, "timeout": _SECONDS}
    try:
        if transport == "azure":
            return Files(openai.AsyncAzureOpenAI(**_azure(target, access), **given))
        return Files(openai.AsyncOpenAI(**_openai(target, access), **given))
    except openai.OpenAIError as exc:
        raise ValueError(str(exc)) from None


def _openai(target: Target, access: Access) -> dict[str, Any]:
    prefix, env = target.provider.upper(), os.environ.get
    _, _, known_key, known_base = load().get_llm_provider(
        target.model, custom_llm_provider=target.provider, api_base=target.api_base
    )
    key = access.api_key or known_key or env(f"{prefix}_API_KEY")
    if not key and not target.api_base:
        raise ValueError(f"no API key for {target.provider}: set {prefix}_API_KEY, or pass api_key=")
    base = target.api_base or known_base or env(f"{prefix}_BASE_URL") or env(f"{prefix}_API_BASE")
    return {"api_key": key or "none", "base_url": base, "organization": access.organization}


def _azure(target: Target, access: Access) -> dict[str, Any]:
    """Return the SDK's arguments, with LiteLLM's environment variables. The SDK says what is missing."""
    env = os.environ.get
    return {
        "azure_endpoint": target.api_base or env("AZURE_API_BASE"),
        "api_version": access.api_version or env("AZURE_API_VERSION") or _AZURE_VERSION,
        "api_key": access.api_key or env("AZURE_API_KEY"),
        "azure_ad_token": access.azure_ad_token or env("AZURE_AD_TOKEN"),
    }


class Files:
    """A provider's files and batches, by the OpenAI SDK. Batches are dicts of OpenAI's `batch` object."""

    def __init__(self, client: Any) -> None:
        self._client = client

    async def upload(self, path: Path, name: str) -> dict[str, Any]:
        """Upload an input file under a name. Returns OpenAI's `file` object."""
        with path.open("rb") as file:
            made = await self._client.files.create(file=(name, file, "application/jsonl"), purpose="batch")
        return _plain(made)

    async def file_status(self, file_id: str) -> str:
        """Return the status of an uploaded file."""
        return str((await self._client.files.retrieve(file_id)).status)

    async def create(self, input_file_id: str, endpoint: str, window: str, metadata: dict[str, str]) -> dict[str, Any]:
        """Create a batch."""
        return _plain(
            await self._client.batches.create(
                input_file_id=input_file_id, endpoint=endpoint, completion_window=window, metadata=metadata
            )
        )

    async def retrieve(self, batch_id: str) -> dict[str, Any]:
        """Return a batch."""
        return _plain(await self._client.batches.retrieve(batch_id))

    async def cancel(self, batch_id: str) -> dict[str, Any]:
        """Cancel a batch."""
        return _plain(await self._client.batches.cancel(batch_id))

    async def download(self, file_id: str, path: Path) -> None:
        """Download a file to `path`."""
        async with self._client.files.with_streaming_response.content(file_id) as answer:
            with path.open("wb") as file:
                async for chunk in answer.iter_bytes(1 << 20):
                    file.write(chunk)

    async def jobs(self) -> AsyncIterator[dict[str, Any]]:
        """Yield all batches of the account, newest first. Raises NotImplementedError if they cannot be listed."""
        async for job in self._client.batches.list(limit=100):
            yield _plain(job)

    async def uploads(self) -> AsyncIterator[dict[str, Any]]:
        """Yield all input files of the account. Raises NotImplementedError if they cannot be listed."""
        async for file in self._client.files.list(purpose="batch"):
            yield _plain(file)

    async def close(self) -> None:
        """Close the connections."""
        await self._client.close()


class _Translated(Files):
    """The files and batches of a provider whose API LiteLLM translates."""

    def __init__(self, target: Target, access: Access) -> None:
        self._litellm, self._provider = load(), target.provider
        given = {"api_base": target.api_base, "api_key": access.api_key}
        self._common = {
            **{name: value for name, value in given.items() if value},
            "custom_llm_provider": target.provider,
            "model": f"{target.provider}/{target.name}",
            "max_retries": 0,
            "num_retries": 0,
            "timeout": _SECONDS,
        }

    async def upload(self, path: Path, name: str) -> dict[str, Any]:
        content = await asyncio.to_thread(path.read_bytes)
        return _plain(await self._litellm.acreate_file(file=(name, content), purpose="batch", **self._common))

    async def file_status(self, file_id: str) -> str:  # noqa: ARG002 - neither provider lets a file wait
        return "processed"

    async def create(self, input_file_id: str, endpoint: str, window: str, metadata: dict[str, str]) -> dict[str, Any]:
        # xAI has a name and no metadata.
        named = {**metadata, "name": "-".join(metadata.values())} if self._provider == "xai" else metadata
        return _plain(
            await self._litellm.acreate_batch(
                completion_window=window, endpoint=endpoint, input_file_id=input_file_id, metadata=named, **self._common
            )
        )

    async def retrieve(self, batch_id: str) -> dict[str, Any]:
        # Without this, LiteLLM downloads a finished batch's files in the background, for every request.
        quiet = {"litellm_metadata": {"batch_ignore_default_logging": True}}
        return _plain(await self._litellm.aretrieve_batch(batch_id=batch_id, **quiet, **self._common))

    async def cancel(self, batch_id: str) -> dict[str, Any]:
        if self._provider == "mistral":
            raise BatchNotSupportedError(
                "LiteLLM cannot cancel Mistral's batch jobs. Cancel the job in Mistral's console"
            )
        return _plain(await self._litellm.acancel_batch(batch_id=batch_id, **self._common))

    async def download(self, file_id: str, path: Path) -> None:
        content = await self._litellm.afile_content(file_id=file_id, **self._common)
        await asyncio.to_thread(path.write_bytes, content.content)

    async def jobs(self) -> AsyncIterator[dict[str, Any]]:
        if self._provider == "mistral":
            raise BatchNotSupportedError(
                "LiteLLM cannot list Mistral's batch jobs. Look for the job in Mistral's console"
            )
        after = None
        while True:
            page = await self._litellm.alist_batches(after=after, limit=100, **self._common)
            for job in page.data:
                yield _plain(job)
            after = getattr(page, "next_page_token", None)
            if not (page.has_more and after):
                return

    async def uploads(self) -> AsyncIterator[dict[str, Any]]:
        for file in await self._litellm.afile_list(purpose="batch", **self._common):
            yield _plain(file)

    async def close(self) -> None:
        return None


def _plain(made: Any) -> dict[str, Any]:
    """Return an SDK object as a dict, with None for values of a wrong type."""
    values = made.model_dump(mode="json", warnings=False)
    return {name: value if _has_type(name, value) else None for name, value in values.items()}


def _has_type(name: str, value: Any) -> bool:
    if name.endswith("_at"):
        return isinstance(value, int | float) and math.isfinite(value)
    return isinstance(value, _TYPES.get(name, object))
