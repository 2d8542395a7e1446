"""What to do with a job's failed rows: read their requests back, submit them again, or send them live."""

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
from llmbatch._jobs.job_state import InputFile, JobState
from llmbatch._jobs.remote import FILE_TAG, Remote
from llmbatch._litellm.provider_files import Access
from llmbatch._request.budget import Budget
from llmbatch._rows.row import Row
from llmbatch.errors import BatchJobError
from llmbatch.providers.base import Payload

Payloads = str | os.PathLike[str] | Iterable["Payload"] | None


async def payloads_of(state: JobState, remote: Remote, wanted: Sequence[str], given: Payloads) -> dict[str, Payload]:
    """Return the payloads of some rows, in order, by id: from `given`, else from the provider's input files.

    Rows that cannot be sent are left out. Raises BatchJobError for a row whose request is in no file.
    """
    order = [custom_id for custom_id in wanted if custom_id not in state.invalid]
    missing = set(order)
    found: dict[str, Payload] = {}

    def take(payloads: Iterable[Payload]) -> None:
        for payload in payloads:
            if payload["custom_id"] in missing:
                missing.discard(payload["custom_id"])
                found[payload["custom_id"]] = payload

    if given is not None:
        take(read_payloads(given) if isinstance(given, str | os.PathLike) else given)
    for file in reversed(state.input_files):  # the last ask of a row counts
        if file.input_file_id and any(state.custom_ids[position] in missing for position in file.positions()):
            async with remote.copy(file.input_file_id) as path:
                await asyncio.to_thread(take, read_payloads(path))
    if missing:
        raise BatchJobError(
            f"no input file has the requests of {len(missing)} rows, such as {min(missing)}; pass payloads= to this "
            "method"
        )
    return {custom_id: found[custom_id] for custom_id in order}


async def resubmit(
    state: JobState, remote: Remote, failed: Sequence[str], given: Payloads, save: Callable[[], None]
) -> None:
    """Submit the failed rows in further input files, or only the files that an earlier try left without a batch."""
    files = [file for file in state.input_files if file.batch_id is None and not file.ended]
    interrupted = [state.custom_ids[position] for file in files for position in file.positions()]
    payloads = await payloads_of(state, remote, interrupted or failed, given)
    with tempfile.TemporaryDirectory(prefix="llmbatch-") as directory:
        folder = Path(directory)
        paths = [await asyncio.to_thread(rewrite_input_file, state, file, payloads, folder) for file in files]
        if not files:
            at, before = {custom_id: at for at, custom_id in enumerate(state.custom_ids)}, len(state.input_files)
            lines = ((at[custom_id], Line(custom_id, payload)) for custom_id, payload in payloads.items())
            paths = await asyncio.to_thread(write_input_files, state, lines, folder)
            files = state.input_files[before:]
            save()
        for file, path in zip(files, paths, strict=True):
            await remote.submit(file, path)


async def run_live(
    state: JobState, access: Access, payloads: Mapping[str, Payload], options: Mapping[str, Any]
) -> list[Row]:
    """Send the bodies of these payloads live and return their rows. The options override what the bodies say."""
    own: dict[str, Any] = {}
    if "model" not in options:
        own = {**state.target.arguments(), "model": state.model, **vars(access), **state.prices}
    if not state.endpoint.endswith("/embeddings"):
        requests = []
        for custom_id, payload in payloads.items():
            model, metadata = state.target_of(payload["body"]["model"]).model, state.row_metadata.get(custom_id)
            request = {**payload["body"], "model": model, "metadata": metadata, "custom_id": custom_id}
            requests.append({name: value for name, value in request.items() if name not in options})
        given = {"temperature": None, "max_tokens": None, **own, **options}
        return list(await chat_batch(requests, **given).collect()) if requests else []
    groups: dict[str, dict[str, Any]] = defaultdict(dict)
    for custom_id, payload in payloads.items():
        body = {k: v for k, v in payload["body"].items() if k != "model"}
        text = body.pop("input")
        groups[json.dumps(body)][custom_id] = text[0] if isinstance(text, list) else text
    rows: list[Row] = []
    budget = Budget(options.get("max_cost"))
    for parameters, texts in groups.items():
        given = {"custom_ids": list(texts), **json.loads(parameters), **own, **options}
        rows += await embeddings_batch(list(texts.values()), shared_budget=budget, **given).collect()
    return rows


async def recover(state: JobState, remote: Remote, ids: Sequence[str]) -> None:
    """Fill the state of a job from its batches at the provider. `ids` are llmbatch's own id, or the batches'."""
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
        file = InputFile((batch.get("metadata") or {}).get(FILE_TAG) or str(batch["id"]))
        for position in sorted(at.setdefault(payload["custom_id"], len(at)) for payload in payloads):
            file.add(position)
        for payload in payloads[-1:]:
            file.model, state.endpoint = payload["body"]["model"], batch.get("endpoint") or payload["url"]
        await remote.take_over(file, batch)
        state.input_files.append(file)
    state.custom_ids = list(at)
