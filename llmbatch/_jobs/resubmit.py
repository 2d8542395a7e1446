"""What to do about a job's failed rows: read their requests back, submit them again, or send them live."""

from __future__ import annotations

import asyncio
import json
import os
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from llmbatch._batch.prepare import chat_batch, embeddings_batch
from llmbatch._jobs.input_files import Line, read_payloads, rewrite_input_file, write_input_files
from llmbatch._jobs.job_state import JobState, Part
from llmbatch._jobs.remote import PART_TAG, Remote
from llmbatch._litellm.provider_files import Access
from llmbatch._request.budget import Budget
from llmbatch._rows.row import Row
from llmbatch.errors import BatchJobError
from llmbatch.providers.base import Payload

Payloads = str | os.PathLike[str] | Iterable["Payload"] | None


async def bodies(state: JobState, remote: Remote, wanted: Sequence[str], given: Payloads) -> dict[str, Payload]:
    """The payloads of some rows, in order, by id: from those given, else from the provider's copies of the input files.

    Rows that could not be sent are left out. Raises BatchJobError for a row whose request is nowhere.
    """
    order = [custom_id for custom_id in wanted if custom_id not in state.invalid]
    left = set(order)
    found: dict[str, Payload] = {}

    def take(payloads: Iterable[Payload]) -> None:
        for payload in payloads:
            if payload["custom_id"] in left:
                left.discard(payload["custom_id"])
                found[payload["custom_id"]] = payload

    if given is not None:
        take(read_payloads(given) if isinstance(given, str | os.PathLike) else given)
    for part in reversed(state.parts):  # the last that was asked
        if part.input_file_id and any(state.custom_ids[position] in left for position in part.positions()):
            async with remote.copy(part.input_file_id) as path:
                await asyncio.to_thread(take, read_payloads(path))
    if left:
        raise BatchJobError(
            f"no input file holds the requests of {len(left)} rows, such as {min(left)}; pass payloads= to this method"
        )
    return {custom_id: found[custom_id] for custom_id in order}


async def resubmit(
    state: JobState, remote: Remote, failed: Sequence[str], given: Payloads, save: Callable[[], None]
) -> None:
    """Submit the failed rows as further parts; parts that an earlier try left without a batch come first, alone."""
    parts = [part for part in state.parts if part.batch_id is None]
    left = [state.custom_ids[position] for part in parts for position in part.positions()]
    payloads = await bodies(state, remote, left or failed, given)
    with tempfile.TemporaryDirectory(prefix="llmbatch-") as directory:
        place = Path(directory)
        paths = [await asyncio.to_thread(rewrite_input_file, state, part, payloads, place) for part in parts]
        if not parts:
            at, before = {custom_id: at for at, custom_id in enumerate(state.custom_ids)}, len(state.parts)
            anew = ((at[custom_id], Line(custom_id, payload)) for custom_id, payload in payloads.items())
            paths = await asyncio.to_thread(write_input_files, state, anew, place)
            parts = state.parts[before:]
            save()
        for part, path in zip(parts, paths, strict=True):
            await remote.submit(part, path)


async def run_live(
    state: JobState, access: Access, payloads: Mapping[str, Payload], options: Mapping[str, Any]
) -> list[Row]:
    """The rows of live requests with these payloads' bodies; the options stand before what these say."""
    own: dict[str, Any] = {}
    if "model" not in options:
        own = {**state.target.arguments(), "model": state.model, **vars(access), **state.prices}
    if not state.endpoint.endswith("/embeddings"):
        requests = []
        for custom_id, payload in payloads.items():
            model, metadata = state.target_of(payload["body"]["model"]).model, state.row_metadata.get(custom_id)
            said = {**payload["body"], "model": model, "metadata": metadata, "custom_id": custom_id}
            requests.append({name: value for name, value in said.items() if name not in options})
        given = {"temperature": None, "max_tokens": None, **own, **options}
        return list(await chat_batch(requests, **given).collect()) if requests else []
    groups: dict[str, dict[str, Any]] = defaultdict(dict)
    for custom_id, payload in payloads.items():
        body = {k: v for k, v in payload["body"].items() if k != "model"}
        asked = body.pop("input")
        groups[json.dumps(body)][custom_id] = asked[0] if isinstance(asked, list) else asked
    rows: list[Row] = []
    budget = Budget(options.get("max_cost"))
    for shared, asked in groups.items():
        given = {"custom_ids": list(asked), **json.loads(shared), **own, **options}
        rows += await embeddings_batch(list(asked.values()), shared_budget=budget, **given).collect()
    return rows


async def recover(state: JobState, remote: Remote, ids: Sequence[str]) -> None:
    """Fill the state of a job of which only ids are known, llmbatch's own or its batches'."""
    own = len(ids) == 1 and ids[0].startswith("job-")
    batches = await remote.batches_of(ids[0]) if own else [await remote.batch(batch_id) for batch_id in ids]
    if not batches:
        raise BatchJobError(
            f"the provider has no batch of job {ids[0]}; check the id, and that model= and api_key= are of its account"
        )
    state.id = ids[0] if own else state.id
    state.created_at = min(int(batch.get("created_at") or state.created_at) for batch in batches)
    at: dict[str, int] = {}
    for batch in batches:
        async with remote.copy(batch["input_file_id"]) as path:
            payloads = await asyncio.to_thread(list, read_payloads(path))
        part = Part((batch.get("metadata") or {}).get(PART_TAG) or str(batch["id"]))
        for position in sorted(at.setdefault(payload["custom_id"], len(at)) for payload in payloads):
            part.add(position)
        for payload in payloads[-1:]:
            part.model, state.endpoint = payload["body"]["model"], batch.get("endpoint") or payload["url"]
        await remote.take_over(part, batch)
        state.parts.append(part)
    state.custom_ids = list(at)
