"""A child of `processes`: sends what it is asked on its standard input, and answers on its standard output."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import threading
from dataclasses import asdict
from typing import Any

from llmbatch._litellm import Target, provider_of, warm_up
from llmbatch._litellm.calls import chat, embed
from llmbatch._request.apart import be_alike
from llmbatch._request.failures import classify
from llmbatch._request.processes import frame

__all__ = ["main"]

_CALLS = {"chat": chat, "embed": embed}


def main() -> None:
    """Serve until the parent is gone."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what libraries print is no answer
    asyncio.run(_serve(answers))


async def _answer(kind: str, request: dict[str, Any]) -> dict[str, Any]:
    """An `Answer` or a `Failure` as plain data."""
    try:
        made = await _CALLS[kind](request)
    except Exception as exc:  # noqa: BLE001 - the parent says what becomes of it
        failure = classify(exc, provider_of(request), request)
        return {"failure": {**asdict(failure), "headers": {k: str(v) for k, v in failure.headers.items()}}}
    return {"body": made.body, "headers": dict(made.headers), "cost": made.cost}


async def _serve(answers: Any) -> None:
    loop = asyncio.get_running_loop()
    tasks: dict[int, asyncio.Task[None]] = {}

    async def answer(number: int, kind: str, asked: str) -> None:
        try:
            said = await _answer(kind, json.loads(asked))
        finally:
            del tasks[number]
        answers.write(frame(number, json.dumps(said)))
        answers.flush()

    def take(number: int, *asked: str) -> None:
        if asked:
            tasks[number] = loop.create_task(answer(number, *asked))
        elif number in tasks:
            tasks[number].cancel()

    def listen() -> None:
        """Blocking, in a thread: the parent's end is heard also while the loop is busy."""
        asked = sys.stdin.buffer
        while len(size := asked.read(4)) == 4:  # noqa: PLR2004 - the length of a length
            number, *rest = asked.read(int.from_bytes(size, "big")).decode("utf-8", "surrogatepass").split("\n", 2)
            if int(number):
                loop.call_soon_threadsafe(take, int(number), *rest)
            else:
                loop.call_soon_threadsafe(prepare, rest[0])
        os._exit(0)

    def prepare(alike: str) -> None:
        be_alike(json.loads(alike))
        warm_up(Target("", "", "openai"))
        answers.write(frame(0, "ready"))
        answers.flush()

    threading.Thread(target=listen, daemon=True).start()
    await asyncio.Event().wait()
