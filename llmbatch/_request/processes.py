"""Past one core: LiteLLM's part of a call in child processes. All that knows the batch stays in the parent.

Requests and answers cross pipes as JSON. Children are new interpreters (nothing is forked, the user's script does not
run again), hold many requests at a time, are kept for the next batch, and end when they are idle, when the
environment or LiteLLM's settings change, or when the parent's end of the pipe closes, however that ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import sys
from typing import TYPE_CHECKING, Any, Literal

from loguru import logger

from llmbatch._leaves.background import at_end
from llmbatch._litellm import Answer
from llmbatch._litellm.calls import chat, embed
from llmbatch._request.apart import bound_here, plain_json, prices_of, settings
from llmbatch._request.failures import Failure
from llmbatch._request.retry import AttemptFailedError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    from llmbatch._request.sender import Call

__all__ = ["calling", "frame"]

Kind = Literal["chat", "embed"]

_HERE: dict[Kind, Call] = {"chat": chat, "embed": embed}
IDLE_SECONDS, INTERRUPTED_SECONDS = 60.0, 1.0
_CLOSING_SECONDS = 3.0
_MOST_STILLBORN = 8  # children that end before they are ready: something keeps them from starting at all
_MAIN = "import sys; sys.path[:] = {path!r}; from llmbatch._request.child import main; main()"


def calling(kind: Kind, processes: int | Literal["auto"]) -> Call:
    """The function that sends one request once: here, or in one of so many children while they are there."""
    if processes == 1:
        return _HERE[kind]
    if processes == "auto":
        cores = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1)
        processes = len(cores)
    count, begun, said = processes, False, False

    async def call(request: dict[str, Any]) -> Answer:
        nonlocal begun, said
        reason = bound_here(request)
        if reason is None:
            try:
                asked = plain_json(request)
            except TypeError:
                reason = "an argument is an object that only this process knows"
            else:
                pool, begun = _pool(count, anew=not begun), True
                return await pool.ask(kind, request, asked)
        if not said:
            said = True
            logger.warning("processes={}: the batch stays in one process, since {}", count, reason)
        return await _HERE[kind](request)

    return call


def frame(number: int, *parts: str) -> bytes:
    """A message between parent and child: the request's number, and JSON, after the length of both."""
    data = "\n".join((str(number), *parts)).encode("utf-8", "surrogatepass")
    return len(data).to_bytes(4, "big") + data


class _Child:
    """One child and what it has been asked. `served` says that it has been ready once."""

    def __init__(self, alike: Mapping[str, Any]) -> None:
        self.alike = alike
        self.process: asyncio.subprocess.Process | None = None
        self.served = False
        self._prepared = False
        self.waiting: dict[int, asyncio.Future[str]] = {}
        self.life = asyncio.ensure_future(self._live())

    @property
    def ready(self) -> bool:
        """Whether it can be asked, as far as is known."""
        stdin = self.process.stdin if self.process is not None else None
        return self._prepared and stdin is not None and not stdin.is_closing()

    async def _live(self) -> None:
        """Start it, take its answers, and fail what it has been asked when it ends."""
        command = [sys.executable, "-c", _MAIN.format(path=sys.path)]
        pipe = asyncio.subprocess.PIPE
        try:
            # A session of its own: a terminal's Ctrl-C is the parent's to hear.
            self.process = await asyncio.create_subprocess_exec(
                *command, stdin=pipe, stdout=pipe, start_new_session=True
            )
            answers = self.process.stdout
            assert answers is not None  # noqa: S101 - asked for above
            self.tell(frame(0, json.dumps(self.alike)))
            while True:
                size = int.from_bytes(await answers.readexactly(4), "big")
                number, _, said = (await answers.readexactly(size)).decode("utf-8", "surrogatepass").partition("\n")
                self._prepared = self.served = True
                if (future := self.waiting.pop(int(number), None)) is not None and not future.done():
                    future.set_result(said)
        except (asyncio.IncompleteReadError, OSError):
            pass
        finally:
            self._prepared = False
            code = await self._ended()
            died = Failure("ProcessDied", f"the process that sent it ended ({code})", retryable=True, billed=None)
            for future in self.waiting.values():
                if not future.done():
                    future.set_exception(AttemptFailedError(died))
            self.waiting.clear()

    async def _ended(self) -> int | None:
        """Close the pipe, on which it ends; its exit code."""
        process = self.process
        if process is None or process.stdin is None:
            return None
        process.stdin.close()
        with contextlib.suppress(TimeoutError):
            return await asyncio.wait_for(process.wait(), _CLOSING_SECONDS)
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        return await process.wait()

    def tell(self, data: bytes) -> None:
        """Write to it."""
        assert self.process is not None  # noqa: S101 - only what runs is asked
        assert self.process.stdin is not None  # noqa: S101
        self.process.stdin.write(data)

    async def ask(self, number: int, kind: Kind, asked: str) -> str:
        """What it answers."""
        self.waiting[number] = future = asyncio.get_running_loop().create_future()
        self.tell(frame(number, kind, asked))
        try:
            said: str = await future
        except asyncio.CancelledError:
            if self.waiting.pop(number, None) is not None and self.ready:
                self.tell(frame(number))
            raise
        return said


class _Pool:
    """So many children, started together; a dead one is replaced when something is to be sent."""

    def __init__(self, count: int) -> None:
        self.alike: dict[str, Any] = {"settings": settings(), "prices": {}}
        self.circumstances = _circumstances()
        self.children = [_Child(self.alike) for _ in range(count)]
        self._numbers = itertools.count(1)
        self._stillborn = 0
        self._in_flight = 0
        self._interrupted = False
        self._timer: asyncio.TimerHandle | None = None

    async def ask(self, kind: Kind, request: dict[str, Any], asked: str) -> Answer:
        """Send a request in the child with the fewest, here while none is ready."""
        for at, child in enumerate(self.children):
            if child.life.done() and self._stillborn < _MOST_STILLBORN:
                self._stillborn += not child.served
                self.children[at] = _Child(self.alike)
        if not (prices := prices_of(request)).items() <= self.alike["prices"].items():
            self.alike["prices"] |= prices
            for child in self.children:
                if child.ready:
                    child.tell(frame(0, json.dumps(self.alike)))
        ready = [child for child in self.children if child.ready]
        self._in_flight += 1
        self._interrupted = False
        try:
            if not ready:
                return await _HERE[kind](request)
            said = await min(ready, key=lambda child: len(child.waiting)).ask(next(self._numbers), kind, asked)
        except asyncio.CancelledError:
            self._interrupted = True
            raise
        finally:
            self._in_flight -= 1
            self._look_again()
        answer = json.loads(said)
        if "failure" in answer:
            raise AttemptFailedError(Failure(**answer["failure"]))
        return Answer(**answer)

    def _look_again(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if not self._in_flight:
            patience = INTERRUPTED_SECONDS if self._interrupted else IDLE_SECONDS
            self._timer = asyncio.get_running_loop().call_later(patience, self.close)

    def close(self) -> None:
        """End the children; what they have been asked fails, and is sent again elsewhere."""
        if _pools.get(len(self.children)) is self:
            del _pools[len(self.children)]
        for child in self.children:
            child.life.cancel()

    def abandon(self) -> None:
        """In a forked process: let go of the pipes, which would keep the children alive."""
        for child in self.children:
            if child.process is not None and child.process.stdin is not None:
                pipe = child.process.stdin.transport.get_extra_info("pipe")
                os.dup2(os.open(os.devnull, os.O_WRONLY), pipe.fileno())


_pools: dict[int, _Pool] = {}


def _circumstances() -> Any:
    """What children know of the parent: while it is the same they may be kept."""
    return dict(os.environ), list(sys.path), settings()


def _pool(count: int, *, anew: bool) -> _Pool:
    """The pool of so many; at the beginning of a batch a new one where the old one's circumstances have changed."""
    pool = _pools.get(count)
    if pool is not None and anew and pool.circumstances != _circumstances():
        pool.close()
        pool = None
    if pool is None:
        pool = _pools[count] = _Pool(count)
    return pool


@contextlib.asynccontextmanager
async def _ending() -> AsyncIterator[None]:
    lives = [child.life for pool in _pools.values() for child in pool.children]
    for pool in list(_pools.values()):
        pool.close()
    await asyncio.gather(*lives, return_exceptions=True)
    yield


at_end(_ending)


def _forget() -> None:
    for pool in _pools.values():
        pool.abandon()
    _pools.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
