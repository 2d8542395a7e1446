"""A worker process: reads requests from its standard input and writes answers to its standard output."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import os
import sys
import threading
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, NoReturn, TextIO

from llmbatch._litellm import Target, direct, load, provider_of, warm_up
from llmbatch._litellm.calls import chat, embed
from llmbatch._request.classify import classify
from llmbatch._util.send_times import record_send_times

CALLS = {"chat": chat, "embed": embed, "chat-direct": direct.send, "embed-direct": direct.send}


def main() -> None:
    """Serve until the parent has ended."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print must not look like an answer
    asyncio.run(_serve(answers))


async def _serve(answers: TextIO) -> NoReturn:
    loop = asyncio.get_running_loop()
    tasks: dict[int, asyncio.Task[None]] = {}

    def reply(number: int, content: Any) -> None:
        print(json.dumps([number, content]), file=answers, flush=True)

    async def answer(number: int, kind: str, request: dict[str, Any]) -> None:
        try:
            reply(number, await _answer(kind, request))
        finally:
            del tasks[number]

    def take(number: int, arguments: list[Any]) -> None:
        if not number:
            _copy_settings(*arguments)
            reply(number, "ready")
        elif arguments:
            tasks[number] = loop.create_task(answer(number, *arguments))
        elif number in tasks:
            tasks[number].cancel()

    def listen() -> None:
        """Read in a thread, so that the parent's end is noticed while the loop is busy."""
        with contextlib.suppress(ValueError):  # the parent ended in the middle of a line
            for line in sys.stdin.buffer:
                loop.call_soon_threadsafe(take, *json.loads(line))
        os._exit(0)

    parent = os.getppid()
    threading.Thread(target=listen, daemon=True).start()
    while os.getppid() == parent:  # noqa: ASYNC110 - a fork of the parent may keep the pipe open
        await asyncio.sleep(1)
    os._exit(0)


async def _answer(kind: str, request: dict[str, Any]) -> dict[str, Any]:
    """Return an `Answer` or a `Failure` as plain data, with the times at which requests were sent."""
    times = record_send_times()
    try:
        made = await CALLS[kind](request)
    except Exception as exc:  # noqa: BLE001 - the parent decides what follows
        failure = classify(exc, provider_of(request), request)
        headers = {k: str(v) for k, v in failure.headers.items()}
        return {"failure": {**asdict(failure), "headers": headers}, "sent_times": times}
    return {"body": made.body, "headers": dict(made.headers), "cost": made.cost, "sent_times": times}


def _copy_settings(settings: Mapping[str, Any], prices: Mapping[str, Any]) -> None:
    """Copy the parent's settings of LiteLLM, and its prices."""
    litellm = load()
    for name, value in settings.items():
        if getattr(litellm, name, None) != value:
            setattr(litellm, name, value)
    litellm.model_cost.update(prices)
    warm_up(Target("", "", "openai"))
    gc.freeze()  # a search for garbage among LiteLLM's million objects takes half a second
